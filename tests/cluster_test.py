"""What flags and launchers say of a process's place."""

import os

import pytest

from t5x_lite import cluster, errors

_NAMES = (
  "SLURM", "OMPI", "PMI", "JAX_COORDINATOR", "JOB_COMPLETION", "KUBERNETES",
  "TPU_", "MEGASCALE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
  """No launcher."""
  for name in list(os.environ):
    if name.startswith(_NAMES):
      monkeypatch.delenv(name)


def given(monkeypatch, **variables):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)


def slurm(monkeypatch, count="4", **more):
  given(
    monkeypatch,
    SLURM_JOB_ID="4100",
    SLURM_STEP_ID="0",
    SLURM_STEP_NODELIST="node[007-008,011]",
    SLURM_STEP_NUM_TASKS=count,
    SLURM_NTASKS=count,
    SLURM_PROCID="2",
    SLURM_LOCALID="1",
    **more,
  )


def test_alone():
  assert cluster.place() is None


def test_flags():
  place = cluster.place("a:1", 4, 3)
  assert place == cluster.Place("a:1", 4, 3)
  assert cluster.place("a:1", 1, 0) is None


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("a:1", None, None), "give --num_processes --process_id too"),
    ((None, 4, 1), "give --coordinator_address too"),
    ((None, None, 1), "give --coordinator_address --num_processes too"),
    (("a", 4, 1), "'a' is not HOST:PORT"),
    (("a:1", 4, 4), "it goes from 0 to 3"),
  ],
)
def test_flags_that_do_not_do(flags, message):
  with pytest.raises(errors.ConfigError, match=message):
    cluster.place(*flags)


def test_slurm(monkeypatch):
  slurm(monkeypatch)
  port = 4100 % 2**12 + 65535 - 2**12 + 1
  expected = cluster.Place(f"node007:{port}", 4, 2, (1,))
  assert cluster.place() == expected
  monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "2,3")
  assert cluster.place().local_devices == (2, 3)
  assert cluster.place("b:9").coordinator == "b:9"
  assert cluster.place(count=1) is None


def test_one_task_of_slurm(monkeypatch):
  slurm(monkeypatch, "1")
  assert cluster.place() is None


def test_a_batch_script_of_slurm(monkeypatch):
  given(monkeypatch, SLURM_JOB_ID="1", SLURM_PROCID="0", SLURM_LOCALID="0")
  assert cluster.place() is None


def test_a_job_of_slurm_outside_of_its_tasks(monkeypatch):
  given(monkeypatch, SLURM_JOB_ID="1", SLURM_NTASKS="4")
  with pytest.raises(errors.ConfigError, match="4 tasks .* start it with srun"):
    cluster.place()
  assert cluster.place(count=1) is None


def test_open_mpi_4(monkeypatch):
  given(
    monkeypatch,
    OMPI_MCA_orte_hnp_uri="1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    OMPI_COMM_WORLD_SIZE="3",
    OMPI_COMM_WORLD_RANK="1",
    OMPI_COMM_WORLD_LOCAL_RANK="0",
  )
  place = cluster.place()
  assert (place.count, place.index, place.local_devices) == (3, 1, (0,))
  assert place.coordinator.startswith("10.96.0.1:")


@pytest.mark.parametrize(
  ("count", "index"),
  [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK")],
)
def test_other_mpi_tells_all_but_the_address(monkeypatch, count, index):
  given(monkeypatch, **{count: "3", index: "1"})
  with pytest.raises(
    errors.ConfigError, match="MPI names 3 .* give --coordinator_address too"
  ):
    cluster.place()
  assert cluster.place("a:1") == cluster.Place("a:1", 3, 1)
  assert cluster.place(count=1) is None
  monkeypatch.setenv(count, "1")
  assert cluster.place() is None


def test_a_pod_of_an_indexed_job_without_the_package(monkeypatch):
  given(monkeypatch, JOB_COMPLETION_INDEX="2")
  with pytest.raises(errors.ConfigError, match="this is pod 2 of an indexed"):
    cluster.place()
  assert cluster.place("a:1", 4, 2) == cluster.Place("a:1", 4, 2)


def test_a_launcher_that_does_not_answer(monkeypatch):
  slurm(monkeypatch)
  monkeypatch.setenv("SLURM_JOB_ID", "not a number")
  with pytest.raises(errors.ConfigError, match="cannot be asked .* ValueErr"):
    cluster.place()
  assert cluster.place("a:1").coordinator == "a:1"


def test_tpu_on_gke(monkeypatch):
  from jax._src.clusters import cloud_tpu_cluster

  monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
  monkeypatch.setattr(
    cloud_tpu_cluster.BaseTpuCluster,
    "wait_for_coordinator",
    classmethod(lambda *unused: None),
  )
  given(
    monkeypatch,
    TPU_WORKER_HOSTNAMES="job-0.svc,job-1.svc",
    TPU_WORKER_ID="1",
    TPU_SKIP_MDS_QUERY="1",
    MEGASCALE_COORDINATOR_ADDRESS="slice-0.svc",
    MEGASCALE_NUM_SLICES="2",
    MEGASCALE_SLICE_ID="1",
  )
  assert cluster.place() == cluster.Place("slice-0.svc:8482", 4, 3)
