"""Descriptions of GPUs, read from the CUDA plugin that is installed."""

import functools
import mmap
import pathlib
import re

_FIRST_FIELD = b"gpu_device_info {"
_NAME = re.compile(r'^device_description_str: "([^"]+)"', re.M)
# Of RTX PRO 6000 the plugin leaves out that it has instructions of its own kind
# (sm_120a), which Mosaic generates.
_EXTENDED = "RTX PRO"
_NO_EXTENSION = "feature_extension: NONE"
_EXTENSION = "feature_extension: ACCELERATED_FEATURES"


@functools.cache
def read(library: pathlib.Path) -> dict[str, str]:
  """Returns name of a GPU -> text of its `GpuTargetConfigProto`.

  They stand as C strings in the plugin's shared object, of jax 0.12 at least.
  """
  found: dict[str, str] = {}
  with (
    library.open("rb") as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
  ):
    at = data.find(_FIRST_FIELD)
    while at >= 0:
      begin, end = data.rfind(b"\0", 0, at) + 1, data.find(b"\0", at)
      text = data[begin:end].decode(errors="replace")
      if name := _NAME.search(text):
        if _EXTENDED in name[1]:
          text = text.replace(_NO_EXTENSION, _EXTENSION)
        found.setdefault(name[1], text)
      at = data.find(_FIRST_FIELD, end)
  return found
