"""The import rules: data flows one way, the physics takes bare arrays, heavy packages wait until they are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("workloads", "simulator", "reports")
PHYSICS = (
    *("simulator.compute", "simulator.memory", "simulator.in_memory", "simulator.recurrence", "simulator.energy"),
)
HEAVY = ("pandas", "matplotlib", "torch", "onnx", "pyarrow", "scipy", "dask")
FILES_ALLOWED = (
    *("workloads.files", "workloads.measured", "workloads.networks", "workloads.importers"),
    *("simulator.accelerator", "simulator.unit_costs", "simulator.sweep_files", "reports"),
)
FILE_CALLS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "savetxt", "loadtxt", "genfromtxt"}


# -- reading source ----------------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Every module of the packages: dotted name -> file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, module: str, is_package: bool = False, top_level_only: bool = False) -> set[str]:
    """Dotted names a module imports, `from a import b` as a.b; relative ones resolved."""
    tree = ast.parse(source)
    nodes = _top_level(tree) if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def _top_level(tree: ast.AST):
    """Statements that run when the module is imported: everything but the bodies of functions."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _top_level(child)


def calls(source: str) -> set[str]:
    """Names of what a module calls: f for f(...), g for anything.g(...)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = node.func
            found.add(getattr(function, "id", None) or getattr(function, "attr", None))
    return found - {None}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imports_of(module: str, **settings) -> set[str]:
    path = MODULES[module]
    return imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py", **settings)


def project_imports(module: str, **settings) -> set[str]:
    """The project's own modules that a module imports: a.b.c is module a.b.c, or the name c in module a.b."""
    names = imports_of(module, **settings)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


MODULES = modules()
every_module = pytest.mark.parametrize("module", sorted(MODULES))


# -- the rules hold ----------------------------------------------------------------------------------


def test_the_packages_are_found():
    for expected in ("workloads.trace", "simulator.simulate", "simulator.compute", "workloads"):
        assert expected in MODULES


def test_top_level_holds_only_the_named_packages():
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and list(p.glob("*.py"))}
    assert folders <= {*PACKAGES, "tests"}


@every_module
def test_data_flows_one_way(module):
    """workloads knows neither simulator nor reports; simulator knows of workloads the trace alone; only reports
    imports reports."""
    package = module.split(".")[0]
    seen = project_imports(module)
    if package != "reports":
        assert not {name for name in seen if within(name, "reports")}
    if package == "workloads":
        assert not {name for name in seen if within(name, "simulator")}
    if package == "simulator":
        of_workloads = {name for name in imports_of(module) if within(name, "workloads")}
        assert {name for name in of_workloads if not within(name, "workloads.trace")} == set()


@every_module
def test_simulator_and_workloads_never_draw(module):
    package = module.split(".")[0]
    forbidden = {"simulator": ("matplotlib", "torch", "onnx"), "workloads": ("matplotlib",), "reports": ()}[package]
    for name in imports_of(module):
        assert not any(within(name, heavy) for heavy in forbidden), f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in PHYSICS if m in MODULES])
def test_physics_takes_bare_arrays(module):
    """compute, memory, recurrence and energy import numpy and the standard library, nothing of the project."""
    assert project_imports(module) == set()
    outside = {name.split(".")[0] for name in imports_of(module)} - set(sys.stdlib_module_names)
    assert outside <= {"numpy"}


@every_module
def test_heavy_packages_are_imported_inside_functions(module):
    for name in imports_of(module, top_level_only=True):
        assert not any(within(name, heavy) for heavy in HEAVY), f"{module} imports {name} when it is imported"


@every_module
def test_no_star_import(module):
    assert not {name for name in imports_of(module) if name.endswith("*")}


@every_module
def test_no_print_outside_the_command_line(module):
    if module != "reports.cli":
        assert "print" not in calls(MODULES[module].read_text(encoding="utf-8"))


def test_no_print_in_the_tests():
    for path in (ROOT / "tests").rglob("*.py"):
        if "benchmarks" not in path.parts:
            assert "print" not in calls(path.read_text(encoding="utf-8")), path.name


@every_module
def test_files_are_opened_only_where_allowed(module):
    if not any(within(module, allowed) for allowed in FILES_ALLOWED):
        assert not calls(MODULES[module].read_text(encoding="utf-8")) & FILE_CALLS


@every_module
def test_no_row_by_row_frames(module):
    """`iterrows` and `np.vectorize` are loops over ops in disguise."""
    assert not calls(MODULES[module].read_text(encoding="utf-8")) & {"iterrows", "itertuples", "vectorize"}


@pytest.mark.parametrize("package", [m for m in sorted(MODULES) if MODULES[m].name == "__init__.py"])
def test_package_init_holds_re_exports_only(package):
    """Imports and `__all__`; or names loaded on first use: a table of where they live and a `__getattr__`."""
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    for node in tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        table = isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Dict))
        table = table and all(isinstance(part, (ast.Constant, ast.expr_context)) for part in leaves(node.value))
        imported = isinstance(node, ast.ImportFrom) or ast.unparse(node) == "import importlib"
        lazy = isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
        assert docstring or table or imported or lazy, ast.unparse(node)


def leaves(node: ast.AST):
    """The innermost parts of an expression."""
    children = list(ast.iter_child_nodes(node))
    return [node] if not children else [leaf for child in children for leaf in leaves(child)]


def test_no_import_cycle():
    """Not even one hidden inside a function."""
    graph = {module: project_imports(module) for module in MODULES}
    assert first_cycle(graph) is None


def first_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """A cycle of the graph as a list of its nodes, or None."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for following in sorted(graph[node]):
            cycle = visit(following, [*path, node])
            if cycle:
                return cycle
        done.add(node)
        return None

    for node in graph:
        cycle = visit(node, [])
        if cycle:
            return cycle
    return None


def test_the_slow_twin_stands_alone():
    """The slow twins import nothing from simulator: an oracle that shares code proves nothing."""
    for twin in ("reference", "reference_silicon"):
        source = (ROOT / "tests" / f"{twin}.py").read_text(encoding="utf-8")
        assert not {name for name in imports(source, twin) if within(name, "simulator")}


@pytest.mark.parametrize("package", ["simulator", "workloads"])
def test_importing_pulls_in_nothing_heavy(package):
    script = f"import sys, {package}; sys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert package in loaded
    assert loaded & set(HEAVY) == set()
    assert "reports" not in loaded


# -- the checks themselves can fail ------------------------------------------------------------------


def test_imports_are_recognised_in_every_form():
    source = "import a.b\nfrom c import d as e\nfrom . import f\nfrom ..g import h\nfrom i import *\n"
    source += "def j():\n    import k\n"
    found = imports(source, "package.module")
    assert found == {"a.b", "c.d", "package.f", "g.h", "i.*", "k"}
    assert "k" not in imports(source, "package.module", top_level_only=True)
    assert "package.f" in imports("from . import f", "package", is_package=True)
    assert "x" in imports("if True:\n    import x\n", "m", top_level_only=True)


def test_calls_are_recognised_as_name_and_attribute():
    assert calls("print(1)\npath.read_text()\nnp.vectorize(f)(x)\nx = print") >= {"print", "read_text", "vectorize"}
    assert "print" not in calls("x = print")


def test_a_cycle_is_found():
    assert first_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "a"]
    assert first_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
