"""Space files: options read without running them, their hooks, the places of errors, and local modules."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import TINY

import search
from search import cli
from search.errors import OptionError, SpaceError
from search.space.digests import digest_files
from search.space.error_text import MAX_MESSAGE_LENGTH
from search.space.file import (
    SPACE_MODULE,
    Space,
    SpaceRef,
    describe_error,
    is_users_file,
    local_files,
    parse_file,
    read_space,
    written_options,
)
from search.study.paths import StudyPaths

STUB = "def build_model(hp): ...\ndef load_data(): ...\n"


@pytest.fixture(autouse=True)
def _modules_and_path() -> Iterator[None]:
    """Restore `sys.path` and `sys.modules`, which space files change."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if name == SPACE_MODULE or "/pytest-" in file:
            del sys.modules[name]


def load(path: Path) -> Space:
    return read_space(SpaceRef(path=str(path)))


def constant_options(text: str) -> dict[str, object]:
    """Return the options in a file's text whose values are constants."""
    options = written_options(ast.parse(text))
    return {name: getattr(node, "value", None) for name, node in options.items() if isinstance(node, ast.Constant)}


# Without running the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("search_options = {'keras_backend': 'jax', 'seed': 0}", {"keras_backend": "jax", "seed": 0}),
        ("search_options = dict(keras_backend='jax')", {"keras_backend": "jax"}),
        ("search_options: dict = dict(keras_backend='jax')", {"keras_backend": "jax"}),
        ("a = search_options = {'keras_backend': 'jax'}", {"keras_backend": "jax"}),
        ("search_options = {'runs': f'{1}', 'study': 's'}", {"study": "s"}),
        ("search_options = {**other, 'study': 's'}", {"study": "s"}),
        ("search_options = dict(**other, study='s')", {"study": "s"}),
        ("search_options = {'study': 's'}\nsearch_options = {}", {}),
        ("search_options = options()", {}),
        ("search_options: dict", {}),
        ("options = {'keras_backend': 'jax'}", {}),
        ("def f():\n    search_options = {'keras_backend': 'jax'}", {}),
        ("", {}),
    ],
)
def test_options_are_read_from_the_text(text: str, options: dict[str, object]) -> None:
    assert constant_options(text) == options


def test_the_files_keras_backend_reaches_the_executor(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keras_backends = []

    def refuse(self: object, slots: object, log: object, keras_backend: str | None, **_: object) -> None:
        keras_backends.append(keras_backend)
        raise OptionError("enough")

    monkeypatch.setattr("search.executors.local.LocalExecutor.__init__", refuse)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    Path("space.py").write_text(STUB + "search_options = dict(keras_backend='jax')\n")
    for arguments in (["run", "space.py"], ["run", "space.py", "--keras-backend", "torch"], ["check", "space.py"]):
        assert cli.main(arguments) == 2
    assert keras_backends == ["jax", "torch", "jax"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = (\n", r"space\.py:1: '\(' was never closed"),
        (b"x = 1\n  y = 2\n", r"space\.py:2: unexpected indent"),
        (b"x = '\xff'\n", r"space\.py:1: .*utf-8"),
        (b"\0", r"space\.py is not a Python file"),
    ],
)
def test_a_file_that_python_cannot_read_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "space.py"
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=message):
        parse_file(path)


def test_a_file_in_another_encoding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "space.py"
    path.write_bytes("# -*- coding: latin-1 -*-\nsearch_options = {'study': 'größe'}\n".encode("latin-1"))
    assert constant_options(ast.unparse(parse_file(path))) == {"study": "größe"}


# Running the file -----------------------------------------------------------------------------------------------------


def test_hooks_are_found(tmp_path: Path) -> None:
    path = tmp_path / "space.py"
    path.write_text(
        STUB + "def callbacks(hp, more=None): ...\nfit_options = lambda hp: {}\nsearch_options = {'seed': 3}\n"
    )
    space = load(path)
    assert space.options == {"seed": 3}
    assert space.callbacks is not None
    assert space.fit_options is not None
    assert space.compile_model is None


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("hp", "(7,)"),
        ("hp, model", "(7, 8)"),
        ("hp, model=None", "(7, 8)"),
        ("hp, built", "(7, 8)"),
        ("hp, patience=3", "(7, 3)"),
        ("*arguments", "(7,)"),
    ],
)
def test_callbacks_may_take_the_model(tmp_path: Path, arguments: str, wanted: str) -> None:
    path = tmp_path / "space.py"
    path.write_text(STUB + f"def callbacks({arguments}): return str(tuple(locals().values()))\n")
    assert load(path).make_callbacks(7, 8).replace("((7,),)", "(7,)") == wanted


@pytest.mark.parametrize("name", ["keras", "numpy", "search", "space", "test", "json", "my space-1"])
def test_the_name_of_a_file_hides_no_module(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text("import json\nimport numpy\nimport search.study.trial\nassert numpy.zeros and json.dumps\n" + STUB)
    before = sys.modules.get(name)
    load(path)
    assert sys.modules.get(name) is before


def test_a_file_called_keras_can_be_searched(workplace: Path) -> None:
    shutil.copy(TINY, "keras.py")
    assert cli.main(["run", "keras.py", "--max-trials", "1", "--max-epochs", "1", "--workers", "1"]) == 0
    assert len(search.load_study("keras").best_trials()) == 1


def test_an_error_is_located_in_the_innermost_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import json\n\n\ndef read():\n    return json.loads('{')\n")
    path = tmp_path / "space.py"
    path.write_text(f"import beside\n{STUB}\nbeside.read()\n")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load(path)
    assert describe_error(caught.value, path).startswith(f"{tmp_path}/beside.py:5: JSONDecodeError: Expecting")
    # For an error in an installed package beside the file, the user's call counts.
    installed = tmp_path / "env" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (tmp_path / "beside.py").rename(installed / "packaged.py")
    sys.path.insert(0, str(installed))
    path.write_text(f"import packaged\n{STUB}\npackaged.read()\n")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load(path)
    assert describe_error(caught.value, path).startswith(f"{path}:5: JSONDecodeError")


def test_a_package_of_another_environment_is_installed() -> None:
    """An environment may see the system's packages, or those of a user's folder."""
    assert not is_users_file(Path("/usr/lib/python3/dist-packages/keras/__init__.py"))
    assert not is_users_file(Path("/home/me/.local/lib/python3.11/site-packages/keras/__init__.py"))
    assert is_users_file(Path("/home/me/project/keras.py"))


SAME_SHAPE = "Arguments `target` and `output` must have the same shape"
RANK = "Argument `output` must have rank (ndim) `target.ndim - 1`"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\n  two\t three"), "ValueError: one two three"),
        (ValueError(), "ValueError"),
        (KeyError("name"), "KeyError: 'name'"),
        (SystemExit(), "sys.exit() was called: let the file's code return"),
        (SpaceError("complete already"), "complete already"),
        (ValueError("\x1b[1mbold\x1b[0m {{node x}} Arguments received by Dense.call():\n  • x"), "ValueError: bold"),
        (
            KeyError(
                "Exception encountered when calling Seq.call().\n\n\x1b[1m0\x1b[0m\n\nArguments received by S.call():\n"
            ),
            "KeyError: Exception encountered when calling Seq.call(). 0",
        ),
        (ValueError("as if\nArguments received by hand"), "ValueError: as if Arguments received by hand"),
        (
            ValueError(
                "Invalid input shape for input [[0. 0.]\n [1. 1.]] with name 'images' and path ''. Expected shape "
                "(None, 28, 28, 1), but input has incompatible shape (32, 28, 29)"
            ),
            "ValueError: input 'images' has the shape (32, 28, 29), and the model expects (None, 28, 28, 1)",
        ),
        (
            ValueError("Layer 'a' expects 2 input(s), but it received 1 input tensors. Inputs received: [<tf.Tensor"),
            "ValueError: Layer 'a' expects 2 input(s), but it received 1 input tensors.",
        ),
        (
            RuntimeError(
                "Graph execution error:\n\nDetected at node a/b defined at (most recent call last):\n"
                '  File "/x/y.py", line 14, in <module>\n\n  File "/x/z.py", line 399, in fit\n\n'
                "Incompatible shapes: [8] vs. [8,3]\n\t [[{{node a/b}}]] [Op:__inference_1]"
            ),
            "RuntimeError: Incompatible shapes: [8] vs. [8,3]",
        ),
        (
            ValueError(
                "Dimensions must be equal, but are 2 and 3 for '{{node a}} = Sub[T=DT_FLOAT](x, y)' with input shapes: "
                "[?,2], [?,3]."
            ),
            "ValueError: Dimensions must be equal, but are 2 and 3 with input shapes: [?,2], [?,3].",
        ),
        (
            ValueError(f"{SAME_SHAPE}. Received: target.shape=(None, 1), output.shape=(None, 10)"),
            f"ValueError: {SAME_SHAPE}. Received: target.shape=(None, 1), output.shape=(None, 10): labels that are "
            "integers need the loss sparse_categorical_crossentropy",
        ),
        (
            ValueError(f"{SAME_SHAPE}. Received: target.shape=(None, 4), output.shape=(None, 10)"),
            f"ValueError: {SAME_SHAPE}. Received: target.shape=(None, 4), output.shape=(None, 10)",
        ),
        (
            ValueError(f"{RANK}. Received: target.shape=(8, 3), output.shape=(8, 3)"),
            f"ValueError: {RANK}. Received: target.shape=(8, 3), output.shape=(8, 3): one-hot labels need the loss "
            "categorical_crossentropy",
        ),
        (ValueError("x" * 999), f"ValueError: {'x' * MAX_MESSAGE_LENGTH}…"),
    ],
)
def test_any_error_is_described_in_one_line(error: BaseException, line: str) -> None:
    assert describe_error(error) == line
    assert describe_error(error, elsewhere="space.py") == f"space.py: {line}"


# Local modules --------------------------------------------------------------------------------------------------------


def test_local_files_are_the_imported_modules_beside_the_file(tmp_path: Path) -> None:
    for name in ("beside.py", "unused.py", "package/__init__.py", "package/inner.py", ".venv/hidden.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("value = 3\n")
    (tmp_path / "env" / "lib").mkdir(parents=True)
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    (tmp_path / "env" / "lib" / "installed.py").write_text("")
    path = tmp_path / "space.py"
    path.write_text(
        "import sys\n\nimport beside\nimport package.inner\nimport json\nimport numpy\n"
        "sys.path += [__file__[:-8] + 'env/lib', __file__[:-8] + '.venv']\nimport installed\nimport hidden\n" + STUB
    )
    load(path)
    files = local_files(path)
    assert [name for name, _ in files] == ["beside.py", "package/__init__.py", "package/inner.py", "space.py"]
    assert all(Path(file) == tmp_path / name for name, file in files)


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    def digest(**contents: str) -> str:
        files = []
        for name, content in contents.items():
            (tmp_path / name).write_text(content)
            files.append((name, str(tmp_path / name)))
        return digest_files(tuple(files))

    one = digest(a="x", b="y")
    assert len(one) == 16
    assert digest(a="x", b="y") == one
    others = [
        digest(a="x", b="z"),
        digest(a="x", c="y"),
        digest(a="x"),
        digest(a="xb", b=""),
        digest(a="x", b="y", c=""),
    ]
    assert len({one, *others}) == 6


ELSEWHERE = """
import sys
import search
model, = search.get_best_models("t", tracking_uri=sys.argv[1])
print(type(model).__name__, model.count_params(), sys.modules["shapes"].__file__)
"""


@pytest.mark.slow
def test_local_modules_travel_with_the_study(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    Path("shapes.py").write_text("WIDTH = 4\n")
    Path("space.py").write_text("from shapes import WIDTH\n" + TINY.read_text().replace("Input((4,)", "Input((WIDTH,)"))
    run = ["run", "space.py", "--study", "t", "--max-trials", "1", "--max-epochs", "1", "--workers", "1"]
    assert cli.main(run) == 0
    assert sorted(path.name for path in StudyPaths.of("runs", "t").space.glob("*.py")) == ["shapes.py", "space.py"]
    # A module beside the file is a part of it.
    Path("shapes.py").write_text("WIDTH = 2 + 2\n")
    assert cli.main([*run, "--resume"]) == 2
    assert cli.main([*run, "--resume", "--accept-changes"]) == 0
    assert (StudyPaths.of("runs", "t").space / "shapes.py").read_text() == "WIDTH = 2 + 2\n"
    # If the file itself is gone, the study's copy replaces it.
    Path("space.py").rename("gone.py")
    Path("shapes.py").unlink()
    assert cli.main(["resume", "t", "--workers", "1"]) == 0
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, f"sqlite:///{workplace}/runs/mlflow.db"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    kind, count, file = done.stdout.split()
    assert kind == "Sequential"
    assert int(count) == 7 * search.load_study("t").trials[0].params["units"] + 2
    assert not Path(file).is_relative_to(workplace)
