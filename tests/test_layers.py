"""The layers point one way: traces <- predictors <- replay <- policies; the imports are read from the source."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"traces", "predictors", "replay", "policies", "tests"}
MAY_IMPORT = {
    "traces": {"traces"},
    "predictors": {"traces", "predictors"},
    "replay": {"traces", "predictors", "replay"},
}
OF_A_POLICY = {"replay.policy", "replay.engine.draws", "math", "numba", "policies.expected", "policies.planning"}
PACKAGES = [name for name in ("traces", "predictors", "replay", "policies") if (ROOT / name).is_dir()]


def modules() -> dict[str, Path]:
    """Return dotted name -> file of every module of the packages."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = modules()


def imports(name: str, only_when_loaded: bool = False) -> Iterator[str]:
    """Yield the modules that a module imports, as dotted names; `from a import b` gives a.b if that is a module.

    only_when_loaded : leave out imports inside functions and for type checkers
    """
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in list(at_load(tree)) if only_when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the whole name"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (target if target in MODULES else str(node.module) for target in full)


def at_load(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements that run when a module is loaded."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_load(node)


@pytest.mark.parametrize("package", [name for name in PACKAGES if name in MAY_IMPORT])
def test_a_layer_imports_only_layers_below(package: str) -> None:
    found = {(name, target) for name in MODULES if name.split(".")[0] == package for target in imports(name)}
    assert found, "no import was read"
    wrong = {pair for pair in found if pair[1].split(".")[0] in OURS - MAY_IMPORT[package]}
    assert not wrong


def test_a_policy_imports_only_what_a_users_plugin_may() -> None:
    files = [name for name in MODULES if name.startswith("policies.") and MODULES[name].stem != "__init__"]
    found = {(name, target) for name in files for target in imports(name)}
    assert len(files) >= 16 and not {pair for pair in found if pair[1] not in OF_A_POLICY}


def test_no_module_needs_itself() -> None:
    """What is loaded with a module forms no circle."""
    graph = {name: {target for target in imports(name, True) if target in MODULES} - {name} for name in MODULES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")
    assert set(order) == set(MODULES) and order.index("traces.errors") < order.index("replay.errors")


def test_heavy_libraries_are_not_loaded_for_help() -> None:
    """`kvreplay --help` answers at once: the command's module loads nothing but the standard library and the errors."""
    heavy = {target.split(".")[0] for target in imports("replay.cli", True)} & {"numba", "polars", "pyarrow", "hydra"}
    assert not heavy and "traces.errors" in set(imports("replay.cli", True))
