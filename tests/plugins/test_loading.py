"""The registries: parts by name, by entry point and by module, and the lines about those that cannot be used."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import install

from search.backends import registry
from search.driver.checks import check_backend
from search.errors import OptionError
from search.options import Options, resolve_options
from search.plugins.loading import BACKENDS, EXECUTORS, FOLLOWERS, STOP_RULES
from search.plugins.spec import parse_arguments, split_spec
from search.testing.backends import SMOOTH

METHODS = "".join(f"    def {name}(self, *arguments, **options): pass\n" for name in BACKENDS.methods)
GOOD = f"""
class Plain:
    protocol = 1
    def __init__(self, objective, seed, *, max_epochs, sampler="tpe", depth=2, parameters=()): pass
{METHODS}
class Ending(Plain):
    has_end = True
class Unstated:
{METHODS}
class Older(Plain):
    protocol = 0
class Newer(Plain):
    protocol = 2
class Lacking:
    protocol = 1
    def ask(self, *, new, child): pass
class Needy(Plain):
    def __init__(self, objective, seed, depth): pass
class Rule:
    protocol = 1
    def __init__(self, trials=1): pass
    def check(self, study, now): pass
def function(): pass
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder on the module path with a package that has parts."""
    points = {"search.backends": {"plain": "good_parts:Plain"}, "search.stop_rules": {"rule": "good_parts:Rule"}}
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", "good-parts", {"good_parts.py": GOOD}, points)))
    yield tmp_path / "site"
    for each in (BACKENDS, EXECUTORS, STOP_RULES, FOLLOWERS):
        each._loaded.clear()
    for module in {"good_parts", "brings", "broken", "leaves", "near"} & sys.modules.keys():
        del sys.modules[module]


def refusal(spec: str, parts: object = BACKENDS) -> str:
    with pytest.raises(OptionError) as caught:
        parts.load(spec)  # type: ignore[attr-defined]
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--")
    return message


@pytest.mark.parametrize(
    ("spec", "name", "arguments"),
    [
        ("plain", "plain", ""),
        ("plain:depth=3,x=a:b", "plain", "depth=3,x=a:b"),
        ("a.b:C", "a.b:C", ""),
        ("a.b:C.D:depth=3", "a.b:C.D", "depth=3"),
        ("plain:", "plain", ""),
    ],
)
def test_a_name_is_told_from_its_arguments(spec: str, name: str, arguments: str) -> None:
    assert split_spec(spec) == (name, arguments)


def test_arguments_are_those_that_a_journal_keeps() -> None:
    text = "a=1,b=0.5,c=True,d=word,e=[],f={1},g=None,h='x',i=1e999"
    found = parse_arguments(text, list("abcdefghi"), "--backend", "plain")
    assert found == {"a": 1, "b": 0.5, "c": True, "d": "word", "e": [], "f": "{1}", "g": None, "h": "x", "i": "1e999"}


@pytest.mark.parametrize("spec", ["plain:depth=3", "good_parts:Plain:depth=3"])
def test_a_part_of_a_package_is_found(spec: str) -> None:
    part = BACKENDS.load(spec)
    assert part.cls.__name__ == "Plain"
    assert part.arguments == {"depth": 3}
    assert not part.own
    assert BACKENDS.source(spec) == "good-parts 0.1.0"
    options = resolve_options({"backend": spec, "max_epochs": 5})
    assert options.backend_options() == {"max_epochs": 5, "sampler": "tpe", "depth": 3}
    assert resolve_options({"backend": part.cls}).backend == "good_parts:Plain"


def test_a_class_within_a_function_is_refused() -> None:
    class Local:
        protocol = 1

    with pytest.raises(OptionError, match="defined within a function: move it"):
        resolve_options({"backend": Local})


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "near.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert BACKENDS.load("near:Plain").name == "near:Plain"
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "plian",
            [
                "--backend 'plian' is not known",
                "hyperband, asha, freeze-thaw, optuna, plain",
                "install",
                "Did you mean 'plain'?",
            ],
        ),
        ("nothing:There", ["no module nothing", "install the package"]),
        ("good_parts:Plian", ["good_parts has no Plian", "Did you mean 'Plain'?"]),
        ("good_parts:function", ["is no class"]),
        ("good_parts:Unstated", ["states no protocol", "protocol = 1"]),
        ("good_parts:Older", ["written for protocol 0", "speaks protocol 1"]),
        ("good_parts:Newer", ["written for protocol 2", "speaks protocol 1"]),
        ("good_parts:Lacking", ["lacks suggest, judge, apply, learn"]),
        ("good_parts:Needy", ["needs depth", "good_parts:Needy:depth=…"]),
        ("plain:dept=3", ["takes no argument 'dept'", "Did you mean 'depth'?"]),
        ("plain:max_epochs=3", ["give --max-epochs"]),
        ("hyperband:factor=4", ["give --factor"]),
        ("__main__:Nothing", ["is a class of another script: move it to a module"]),
        ("optuna:tpe", ["write the arguments of optuna as optuna:key=value"]),
    ],
)
def test_a_part_that_cannot_be_used_is_refused_in_one_line(spec: str, words: list[str]) -> None:
    message = refusal(spec)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import keras", ["imports keras when it is loaded", "within the functions"]),
        ("try:\n    import jax\nexcept ImportError:\n    pass", ["imports jax when it is loaded"]),
        ("import no_such_package", ["ModuleNotFoundError", "no_such_package"]),
        ("1 / 0", ["ZeroDivisionError"]),
        ("raise SystemExit(3)", ["SystemExit"]),
        ("syntax error", ["SyntaxError"]),
    ],
)
def test_a_module_that_cannot_be_loaded_is_refused_in_one_line(
    site: Path, code: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for framework in ("keras", "jax"):
        monkeypatch.delitem(sys.modules, framework, raising=False)
    (site / "brings.py").write_text(f"{code}\n{GOOD}")
    finders = list(sys.meta_path)
    message = refusal("brings:Plain")
    assert all(word in message for word in words), message
    assert sys.meta_path == finders


def test_a_framework_that_the_process_has_is_no_fault_of_a_part(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", sys)
    (site / "brings.py").write_text(f"import keras\n{GOOD}")
    assert BACKENDS.load("brings:Plain").name == "brings:Plain"


def test_a_name_that_two_packages_have_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"search.backends": {"plain": "good_parts:Ending"}}
    monkeypatch.syspath_prepend(str(install(tmp_path / "other", "other-parts", {}, points)))
    message = refusal("plain")
    assert "good_parts:Plain of good-parts" in message
    assert "good_parts:Ending of other-parts" in message


def test_a_missing_part_is_found_out_by_a_new_search_and_not_by_a_look() -> None:
    for name, spec in [("backend", "gone"), ("stop_rule", ["gone"]), ("follow", ["gone"]), ("executor", "gone")]:
        with pytest.raises(OptionError, match="'gone' is not known"):
            resolve_options({name: spec})
        looked_at = resolve_options({}, before={"backend": "hyperband", "max_epochs": 9, name: spec})
        assert looked_at.total_epochs is None
    assert resolve_options({"stop_rule": "none"}, before={"stop_rule": ["gone"]}).stop_rule == ()


def test_only_a_back_end_without_an_end_gets_the_epochs_of_the_plan() -> None:
    assert Options(backend="good_parts:Plain", max_epochs=9).total_epochs == Options(max_epochs=9).plan.total_epochs
    assert Options(backend="good_parts:Ending", max_epochs=9).total_epochs is None


def test_a_back_end_is_tried_with_the_attributes_of_its_own_suggestion() -> None:
    check_backend(Options(backend="averaging:Averaging", max_epochs=9), SMOOTH.parameters())


@pytest.mark.parametrize("name", list(registry.OWN))
def test_the_facts_about_our_back_ends_are_those_of_their_constructors(name: str) -> None:
    taken = dict(BACKENDS.keywords_of(BACKENDS.find(name)))
    assert "parameters" in taken
    assert set(registry.OWN[name].options) == taken.keys() - {"parameters"}
    assert registry.OWN[name].sampler == taken.get("sampler")


@pytest.mark.parametrize("parts", [BACKENDS, EXECUTORS, STOP_RULES, FOLLOWERS], ids=lambda parts: parts.group)
def test_our_parts_speak_the_present_protocol(parts: object) -> None:
    for name in parts.own:  # type: ignore[attr-defined]
        cls = parts.find(name)  # type: ignore[attr-defined]
        assert cls.protocol == parts.protocol  # type: ignore[attr-defined]
        assert all(inspect.isfunction(getattr(cls, method)) for method in parts.methods)  # type: ignore[attr-defined]
