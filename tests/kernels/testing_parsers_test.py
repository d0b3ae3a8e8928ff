"""What the compilers write, read: schedules of TPUs, code of GPUs."""

import pytest

from pallas_kernels.testing import chips, gpu, llo, report, sass, text, tpu

# Address, mark, depth: a loop over the grid (bundles 2-12) holding a loop of
# two (4-9, 5-7) and one beside it (10-11).  Bundles 6 and 8 were moved: one
# marked as outside stands within.
BUNDLES = """\
= control target key start
LH: loop header
LB: loop body
PF: predicated region fallthrough
= control target key end

     0   :  { %s1 = smov.u32 0 }
   0x1   :  { %7 = vsyncpa [#allocation5], 0 } /* Start region 1 */
   0x2 LB: > { %s2 = sadd.s32 1, %s1  ;;  %s3 = sphi %s1, %s4 /* phi copy */ }
   0x3   : > { %8 = dma.hbm_to_vmem /* a window of two lines:
window_bounds: (64, 1)
iteration_bounds: (4, 2) */ }
   0x4 LB: >> { %s5 = smov.u32 0 }
   0x5 LB: >>> { %v1 = vld [vmem:[%s9 + $0x38] sm:$0xff] }
   0x6   : >> { %v2 = vexp2.f32 %v1 }
   0x7   : >>> { %9 = sbr.rel (!%p2) target = $region114 }
   0x8   : > { %s6 = smov.u32 1 }
   0x9   : >> { %10 = sbr.rel (!%p3) target = $region40 }
   0xa PF LB: >> { %11 = vst [vmem:[#allocation3] sm:$0xff] %v2 }
   0xb   : >> { %12 = sbr.rel (!%p4) target = $region41 }
   0xc   : > { %13 = sbr.rel (!%p5) target = $region2 }
   0xd   :  {} /* exit bundle */
"""
ROWS = """\
0 0 0 0 0
0 0 0 0 0
0 1 0 0 0
0 0 0 0 0
0 0 0 0 0
2 4 1 0 1
2 2 0 1 0
0 4 0 0 0
0 0 0 1 0
0 0 0 0 0
0 0 0 0 0
0 0 0 0 0
0 0 0 0 0
0 0 0 0 0
"""
TABLE = f"""\
== CAPACTIY:
MATMUL, VALU, VLOAD:FILL, VSTORE:SPILL, EUP
    2     4     3     1     1
== UTILIZATION:
{ROWS}"""

SERIALIZED = (
  "(C7511) Potential Performance Loss: wgmma.mma_async instructions are "
  "serialized due to insufficient register resources for the wgmma pipeline in "
  "the function 'forward' in line 516"
)
PTXAS = f"""\
ptxas info    : {SERIALIZED}
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'forward' for 'sm_90a'
ptxas info    : Function properties for forward
    16 bytes stack frame, 464 bytes spill stores, 336 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 17 bytes smem
ptxas info    : Compile time = 279.381 ms
ptxas info    : Compiling entry function 'backward' for 'sm_90a'
ptxas info    : Function properties for backward
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 90 registers, used 2 barriers
"""
IGNORED = (
  "Potential Performance Loss: 'setmaxnreg' ignored to maintain compatibility "
  "across compilation units."
)

SASS = """\

	code for sm_90a
	.target	sm_90a

		Function : forward
	.headerflags	@"EF_CUDA_ACCELERATORS EF_CUDA_SM90"
      /*0000*/       LDC R1, c[0x0][0x28] ;            /* 0x00000a00ff017b82 */
                                                       /* 0x000e220000000800 */
      /*0010*/  @!P1 SHFL.IDX PT, R6, R4, RZ, 0x1f ;   /* 0x00001fff04067589 */
      /*0020*/       MUFU.EX2 R2, R3 ;                 /* 0x0000000000027308 */
      /*0030*/       MUFU.RCP R2, R3 ;                 /* 0x0000000000027308 */
      /*0040*/  @UP0 UTMALDG.3D [UR4], [UR6] ;         /* 0x00000000040075b4 */
      /*0050*/   @P0 BRA 0x20 ;                        /* 0x0000000000000947 */
      /*0060*/       HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], RZ, !UPT ;
      /*0070*/   @P2 BRA.U UP1, 0x10 ;                 /* 0x0000000000000947 */
      /*0080*/   @P3 BRA 0xb0 ;                        /* 0x0000000000000947 */
      /*0090*/       BRA 0x10 ;                        /* 0x0000000000000947 */
      /*00a0*/       EXIT ;                            /* 0x000000000000794d */
      /*00b0*/       BRA 0xb0;                         /* 0xfffffffc00fc7947 */
		Function : backward
      /*0000*/       STL [R1+0x4], R5 ;                /* 0x0000040501007387 */
"""


def test_loops_by_their_marks():
  spans = llo.loop_spans(BUNDLES)
  assert spans == (
    llo.Span(2, 13, 1),
    llo.Span(4, 10, 2),
    llo.Span(5, 8, 3),
    llo.Span(10, 12, 2),
  )
  assert llo.loop_spans(BUNDLES.replace("LB:", "  :")) == ()


def test_table_of_slots():
  table = llo.slot_table(TABLE)
  assert table.names[-2:] == ("VSTORE:SPILL", "EUP")
  assert len(table.rows) == 14
  slots = table.slots(5, 8)
  assert slots["MATMUL"] == report.Slot(4, 4 / 6)
  assert slots["VALU"] == report.Slot(10, 10 / 12)
  assert slots["VLOAD:FILL"].count == 1


@pytest.mark.parametrize(
  "wrong",
  [
    "",
    BUNDLES,
    TABLE.replace("2 4 1 0 1", "2 4 1"),
    TABLE.replace(", EUP", ""),
  ],
)
def test_what_is_no_table_is_refused(wrong):
  with pytest.raises(ValueError, match="slots"):
    llo.slot_table(wrong)


def test_a_kernel_of_loops():
  kernel = llo.kernel("f", llo.slot_table(TABLE), llo.loop_spans(BUNDLES), 1000)
  assert (kernel.bundles, kernel.spill_stores, kernel.spill_loads) == (14, 2, 1)
  assert kernel.slots["VALU"].count == 11
  assert kernel.body.bundles == 11 and kernel.body.spill_stores == 2
  assert kernel.innermost.bundles == 3 and kernel.innermost.spill_stores == 1
  assert [loop.innermost for loop in kernel.loops] == [0, 0, 1, 1]
  assert kernel.matrix_share(1500, kernel.innermost) == 0.5
  assert kernel.matrix_share(7000) == 0.5


def test_a_kernel_without_loops_is_its_own_body():
  kernel = llo.kernel("f", llo.slot_table(TABLE), (), 1)
  assert kernel.body is kernel and kernel.innermost is kernel


def test_dumps_of_pallas_kernels_alone_are_read(tmp_path):
  hlo = (
    '%forward.1 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_'
    'call", metadata={}\n'
    '%other.2 = f32[8]{0} custom-call(%x), custom_call_target="Sharding"\n'
  )
  for name in ("forward.1", "other.2", "TLP", "<late-finalization>"):
    stem = tmp_path / f"179-{name}"
    table = f"{stem}-01-final_hlo-static-per-bundle-utilization.txt"
    tmp_path.joinpath(table).write_text(TABLE)
    listing = f"{stem}-02-schedule-analysis_final_bundles.txt"
    tmp_path.joinpath(listing).write_text("Schedule analysis:")
    tmp_path.joinpath(f"{stem}-03-final_bundles.txt").write_text(BUNDLES)
  (kernel,) = tpu.kernels(chips.chip_named("v5e"), tmp_path, hlo)
  assert kernel.name == "forward.1" and len(kernel.loops) == 4
  assert kernel.flops_per_cycle == 4 * 2 * 128 * 128


def test_resources():
  found = sass.resources(PTXAS)
  assert found == {
    "forward": sass.Resources("sm_90a", 255, 464, 336, 16, 17, (SERIALIZED,)),
    "backward": sass.Resources("sm_90a", 90, 0, 0, 0, 0, ()),
  }


def test_a_remark_on_no_function_is_every_functions():
  found = sass.resources(f"ptxas info    : (C7504) {IGNORED}\n{PTXAS}")
  assert [len(entry.warnings) for entry in found.values()] == [2, 1]
  assert found["backward"].warnings == (f"(C7504) {IGNORED}",)


def test_instructions():
  found = sass.listings(SASS)
  assert list(found) == ["forward", "backward"]
  assert sass.opcodes(found["forward"]) == {
    "LDC": 1, "SHFL": 1, "MUFU": 2, "UTMALDG": 1, "BRA": 5, "HGMMA": 1,
    "EXIT": 1,
  }  # fmt: skip
  assert sass.variants(found["forward"])["HGMMA.64x128x16.F32.BF16"] == 1
  assert sass.variants(found["forward"])["MUFU.EX2"] == 1
  assert sass.opcodes(found["backward"]) == {"STL": 1}


def test_loops_by_their_branches():
  outer, inner = sass.loops(sass.listings(SASS)["forward"])
  assert (outer.first, outer.innermost, outer.length) == (0x10, False, 9)
  assert (inner.first, inner.innermost, inner.length) == (0x20, True, 4)
  assert inner.instructions == {"MUFU": 2, "UTMALDG": 1, "BRA": 1}


def test_one_kernel_by_its_name():
  schedule = llo.slot_table(TABLE), llo.loop_spans(BUNDLES), 1
  kernels = tuple(llo.kernel(name, *schedule) for name in ("dq.1", "dkv.1"))
  found = report.Report(
    "v5e", report.Memory(1, 2, 3), 1e9, None, kernels, hlo=""
  )
  assert found.tpu_kernel("dq").name == "dq.1"
  for name in ("", "dk.", "forward"):
    with pytest.raises(LookupError, match="dq.1"):
      found.tpu_kernel(name)
  with pytest.raises(LookupError):
    found.gpu_kernel()


def test_reports_as_text():
  kernel = llo.kernel("f", llo.slot_table(TABLE), llo.loop_spans(BUNDLES), 1)
  gpu_kernel = report.GpuKernel(
    "g", "mosaic", "sm_90a", 90, 8, 4, 0, None, {"HGMMA": 3, "NOP": 1}, {}, (),
    ("(C7504) slow",),
  )  # fmt: skip
  lines = text.describe(
    report.Report(
      "v5e", report.Memory(1, 2, 3), None, None, (kernel, gpu_kernel), hlo=""
    )
  ).splitlines()
  assert lines[0] == "v5e: arguments 1 bytes, outputs 2, temporaries 3"
  assert "f: 14 bundles, spills 2 stores 1 loads; MATMUL 4 (14%)" in lines[1]
  assert lines[4].strip().startswith("innermost loop at 5: 3 bundles")
  assert "90 registers, spills 8 bytes stored 4 loaded" in lines[6]
  assert lines[7:] == ["  4 instructions: HGMMA 3", "  (C7504) slow"]


def test_programs_call_triton_kernels_by_name():
  line = (
    '%call = custom-call(%x), custom_call_target="__gpu$xla.gpu.triton", '
    'backend_config={debug = false, ir = "ML", name = "forward", num_warps = 4}'
  )
  assert gpu._TRITON_CALL.findall(f"{line}\n%fusion = name = 'x'") == [
    "forward"
  ]
