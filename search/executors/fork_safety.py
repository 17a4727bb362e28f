"""The decision whether workers may be forked from this process, which has run a script of the user's.

A fork has one thread. What another thread held at that moment, such as a lock or the queue of a thread pool, is broken
in the fork: code that waits for it hangs. Measured with TensorFlow 2.21, JAX 0.10 and PyTorch on two cores:

- Importing TensorFlow, seeding it or listing its physical devices leaves its runtime asleep. One optimizer or built
  layer outside of a factory, one tensor or one `tf.data.Dataset` starts it, with threads called `tf_…`.
- Importing JAX starts nothing, and one array does. PyTorch's pool of OpenMP threads starts with the first large
  operation, and so does scikit-learn's.
- OpenBLAS (NumPy and SciPy each have their own) and jemalloc (in PyArrow) have threads as soon as they are imported,
  and take care of forks themselves.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ProcessFacts", "process_facts", "why_different", "why_unsafe"]

_HARMLESS = frozenset({"jemalloc_bg_thd"})
"""The names of native threads that take care of forks themselves."""

_VECTOR_UNITS = re.compile(r"^flags\s*:.*\b(avx512_vnni|amx_tile)\b", re.MULTILINE)
"""The processors on which TensorFlow uses oneDNN by itself."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """The facts about a process that decide whether its forks work.

    Attributes:
        platform: `sys.platform`.
        interactive: IPython or a notebook's kernel runs the program.
        traced: a debugger, or another tool that is called for each line, watches the program.
        main_thread: the calling thread is the process's main one.
        python_threads: the names of all other threads of Python's.
        native_threads: the names of the threads that no library is known to repair in a fork.
        native_unnamed: the number of threads with the name of the program, beside the main one.
        blas_threads: the number of OpenBLAS's threads, which have no name either.
        gpu_files: the process has opened a GPU.
        keras_backend: the back end of Keras if that is imported, else None.
        onednn: TensorFlow was imported with the use of oneDNN that workers have, or was not imported.
    """

    platform: str = "linux"
    interactive: bool = False
    traced: bool = False
    main_thread: bool = True
    python_threads: tuple[str, ...] = ()
    native_threads: tuple[str, ...] = ()
    native_unnamed: int = 0
    blas_threads: int = 0
    gpu_files: bool = False
    keras_backend: str | None = None
    onednn: bool = True


def why_unsafe(facts: ProcessFacts, keras_backend: str | None = None) -> str | None:
    """Return why a fork of the process might hang or fail, None if it works: words that follow "process, and".

    Args:
        keras_backend: the back end that the search asks for; None for Keras's own choice.
    """
    if facts.platform != "linux":
        return "only Linux can fork this one"
    if facts.interactive:
        return "a notebook or IPython has threads of its own"
    if facts.traced:
        return "a debugger watches this one"
    if not facts.main_thread:
        return "the search runs in a thread of this one"
    if facts.python_threads:
        return f"this one has started threads ({', '.join(facts.python_threads)})"
    if facts.gpu_files:
        return "this one has opened a GPU"
    if keras_backend is not None and facts.keras_backend not in (None, keras_backend):
        return f"this one has imported Keras with {facts.keras_backend}, and the search is for {keras_backend}"
    if any(name.startswith("tf_") for name in facts.native_threads):
        runtime = "JAX" if facts.keras_backend == "jax" else "TensorFlow"
        return f"{runtime} is running in this one"
    if facts.native_threads or facts.native_unnamed > facts.blas_threads:
        names = ", ".join(facts.native_threads) or "without a name"
        return f"libraries have started threads in this one ({names})"
    return None


def why_different(facts: ProcessFacts) -> str | None:
    """Return why the results of a fork might differ from those of a new process, None if they do not."""
    return None if facts.onednn else "TensorFlow was imported without oneDNN, which workers use"


def process_facts() -> ProcessFacts:
    """Look at this process."""
    names = _thread_names()
    main = names.get(os.getpid(), "")
    others = [name for thread, name in names.items() if thread != os.getpid() and name not in _HARMLESS]
    keras: Any = sys.modules.get("keras")
    this = threading.current_thread()
    return ProcessFacts(
        platform=sys.platform,
        interactive=_in_ipython(),
        traced=sys.gettrace() is not None,
        main_thread=this is threading.main_thread(),
        python_threads=tuple(sorted(thread.name for thread in threading.enumerate() if thread is not this)),
        native_threads=tuple(sorted({name for name in others if name != main})),
        native_unnamed=others.count(main) - (threading.active_count() - 1),
        blas_threads=sum(map(_blas_threads, _mapped("openblas"))),
        gpu_files=_has_opened("/dev/nvidia"),
        keras_backend=keras.config.backend() if hasattr(keras, "config") else None,
        onednn="tensorflow" not in sys.modules or _uses_onednn(),
    )


def _in_ipython() -> bool:
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def _thread_names() -> dict[int, str]:
    """Return the names of this process's threads by their numbers, as Linux has them."""
    found = {}
    for folder in _entries("/proc/self/task"):
        with suppress(OSError):  # it may have ended
            found[int(folder.name)] = (folder / "comm").read_text().strip()
    return found


def _entries(folder: str) -> list[Path]:
    with suppress(OSError):
        return list(Path(folder).iterdir())
    return []


def _mapped(word: str) -> set[str]:
    """Return the paths of the shared libraries in this process with `word` in their names."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        paths = {line.split(maxsplit=5)[-1] for line in lines if line.count(" ") >= 5}
        return {path for path in paths if path.startswith("/") and word in Path(path).name}
    return set()


def _blas_threads(library: str) -> int:
    """Return the number of threads that an OpenBLAS has started, beside the caller's; 0 if it does not tell."""
    with suppress(OSError):
        loaded = ctypes.CDLL(library)
        for prefix in ("", "scipy_"):
            for suffix in ("", "64_"):
                count = getattr(loaded, f"{prefix}openblas_get_num_threads{suffix}", None)
                if count is not None:
                    return int(count()) - 1
    return 0


def _has_opened(prefix: str) -> bool:
    """Return whether this process has opened a file whose path begins with `prefix`."""
    return any(target.startswith(prefix) for target in map(_target, _entries("/proc/self/fd")))


def _target(link: Path) -> str:
    with suppress(OSError):
        return str(link.readlink())
    return ""


def _uses_onednn() -> bool:
    """Return whether TensorFlow was imported with oneDNN, or with the setting that workers have from the environment.

    It reads the variable once, while it is imported: on an x86 processor, `TF_ENABLE_ONEDNN_OPTS=1` that is set later
    has no effect (measured: the weights after three epochs of a convolution are bit-equal to those without it).
    """
    if platform.machine() != "x86_64" or "TF_ENABLE_ONEDNN_OPTS" in os.environ:
        return True
    with suppress(OSError):
        return _VECTOR_UNITS.search(Path("/proc/cpuinfo").read_text()) is not None
    return False
