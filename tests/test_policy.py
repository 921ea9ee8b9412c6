"""Rules of the house that a machine can check, read off the source."""

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("interp", "probes", "saes", "dashboards")  # each may import the ones before it
FILES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
NAMES = [p.relative_to(ROOT).as_posix() for p in FILES]
UPWARD = re.compile(r"interp/(cli/[\w/]+|results)\.py")


def packages():
    """Packages that have a public face, as import names."""
    found = [p.parent for p in FILES if p.name == "__init__.py" and p.stat().st_size]
    return [".".join(p.relative_to(ROOT).parts) for p in found]


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(source):
    """(top-level package, whether it is inside a function or for types only, line)."""
    inner = set()
    for node in ast.walk(source):
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner |= {id(n) for n in ast.walk(node)}
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], id(node) in inner, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], id(node) in inner, node.lineno


def wrong_imports(name, source):
    room = ROOMS.index(name.split("/")[0])
    return [
        f"{name}:{line} imports {package}"
        for package, inner, line in imports(source)
        if package in ROOMS[room + 1 :] and not (inner and UPWARD.fullmatch(name))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_down_the_rooms(name):
    assert wrong_imports(name, tree(ROOT / name)) == []


def test_the_layering_check_can_fail():
    assert wrong_imports("probes/a.py", ast.parse("import saes"))
    assert wrong_imports("probes/a.py", ast.parse("def f():\n    from dashboards import x"))
    assert wrong_imports("interp/cli/a.py", ast.parse("import probes"))
    assert not wrong_imports("interp/cli/a.py", ast.parse("def f():\n    import probes"))
    assert not wrong_imports("saes/a.py", ast.parse("import interp, probes"))


BANNED_CALLS = {
    "torch.manual_seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "torch.random.manual_seed",
    "np.random.seed",
    "numpy.random.seed",
    "random.seed",
    "torch.save",
    "pd.read_pickle",
    "torch.set_grad_enabled",
    "torch.set_num_threads",
    "torch.set_default_dtype",
    "eval",
    "exec",
}
ALLOWED = {
    ("probes/sweep.py", "torch.set_num_threads"),  # a context that puts the number back
    ("saes/threads.py", "torch.set_num_threads"),  # likewise, and of threads of its own
    ("saes/formats/files.py", "torch.save"),  # dictionary_learning reads nothing else
}
BANNED_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
BANNED_FILES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}


def offences(source):
    """Calls and imports that no file of the packages may hold."""
    allowed_with = {
        id(item.context_expr)
        for node in ast.walk(source)
        if isinstance(node, ast.With)
        for item in node.items
    }
    for node in ast.walk(source):
        if isinstance(node, ast.Call) and id(node) not in allowed_with:
            called = ast.unparse(node.func)
            if called in BANNED_CALLS:
                yield f"{node.lineno}: {called}"
            if called == "torch.load" and not any(
                k.arg == "weights_only" and getattr(k.value, "value", None) is True
                for k in node.keywords
            ):
                yield f"{node.lineno}: torch.load without weights_only=True"
        if isinstance(node, ast.Import):
            yield from (
                f"{node.lineno}: {a.name}"
                for a in node.names
                if a.name.split(".")[0] in BANNED_IMPORTS
            )
        if isinstance(node, ast.ImportFrom):
            if node.level:
                yield f"{node.lineno}: a relative import"
            if (node.module or "").split(".")[0] in BANNED_IMPORTS:
                yield f"{node.lineno}: {node.module}"
            if node.module == "__future__" and any(a.name == "annotations" for a in node.names):
                yield f"{node.lineno}: from __future__ import annotations"


@pytest.mark.parametrize("name", NAMES)
def test_no_global_seed_no_pickle_no_future_annotations(name):
    source = tree(ROOT / name)
    found = list(offences(source))
    if "fork_rng" in ast.unparse(source):  # a seed inside a fork of the generator is not global
        found = [f for f in found if not f.endswith("torch.manual_seed")]
    found = [f for f in found if (name, f.split(": ")[1]) not in ALLOWED]
    assert found == []
    assert Path(name).name not in BANNED_FILES


@pytest.mark.parametrize(
    "code",
    [
        "torch.manual_seed(0)",
        "np.random.seed(1)",
        "import pickle",
        "from pickle import loads",
        "from __future__ import annotations",
        "from . import x",
        "torch.load('a')",
        "torch.load('a', weights_only=False)",
        "eval('1')",
    ],
)
def test_the_offence_check_can_fail(code):
    assert list(offences(ast.parse(code)))
    assert not list(offences(ast.parse("torch.load('a', weights_only=True); model.eval()")))


@pytest.mark.parametrize("package", packages())
def test_all_is_sorted_and_is_what_is_public(package):
    module = import_module(package)
    assert list(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name) is not None
    if package == "interp":  # its names are imported when they are used
        assert sorted(module._HOMES) == module.__all__
        return
    path = ROOT.joinpath(*package.split(".")) / "__init__.py"
    public = set()
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            public.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package + "."):
            public |= {a.asname or a.name for a in node.names}
    public = {n for n in public if not n.startswith("_")}
    if package != "interp.cli":  # it imports its commands' files
        assert public <= set(module.__all__), public - set(module.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_module_and_public_name_has_a_docstring(name):
    source = tree(ROOT / name)
    if not source.body:
        return
    assert ast.get_docstring(source), name
    for node in source.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if any(ast.unparse(d) == "overload" for d in node.decorator_list):
                continue  # the function itself has it
            assert ast.get_docstring(node), f"{name}: {node.name}"


def test_a_module_s_all_holds_names_that_exist():
    for name, path in zip(NAMES, FILES, strict=True):
        source = tree(path)
        for node in source.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                listed = ast.literal_eval(node.value)
                text = path.read_text(encoding="utf-8")
                assert all(re.search(rf"\b{n}\b", text.replace(f'"{n}"', "")) for n in listed), name


QUIET = """
import sys
before = set(sys.modules)
for name in {names!r}.split():
    __import__(name)
heavy = {heavy!r}.split()
found = [m for m in heavy if m in sys.modules]
assert not found, found
if "torch" in sys.modules:
    import torch
    assert torch.is_grad_enabled() and torch.initial_seed() == SEED, "changed torch's state"
assert "matplotlib.pyplot" not in sys.modules
assert "umap" not in sys.modules and "transformer_lens" not in sys.modules
"""


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_importing_the_light_part_prints_nothing_and_needs_no_torch():
    heavy = "torch numpy pandas sklearn plotly transformers datasets nnsight transformer_lens umap"
    names = "interp interp.cli interp.errors interp.runs interp.data interp.demo"
    done = run_python(QUIET.format(names=names, heavy=heavy))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert run_python(QUIET.format(names="interp torch", heavy=heavy)).returncode == 1  # can fail


def test_importing_every_package_prints_nothing_and_touches_no_state():
    names = " ".join(p for p in ("interp", "probes", "saes", "dashboards") if p in packages())
    seeded = "import torch; SEED = torch.initial_seed()\n" + QUIET.format(
        names=names + " interp.activations interp.intervene interp.loading", heavy=""
    )
    done = run_python(seeded.replace("before = set(sys.modules)", ""))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


MACHINE = re.compile(r"(?<![\w./-])/(?:work|root|home/\w+|Users/\w+)/[\w.-]+|(?<![\w./-])/tmp/\w+")


def tracked():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("a checkout with git says which files are tracked")
    return [ROOT / name for name in done.stdout.splitlines()]


def test_no_file_speaks_of_a_machine():
    assert MACHINE.search("see /home/" + "someone/x") and MACHINE.search("/tmp/" + "abc")
    for path in tracked():
        binary = path.suffix in (".safetensors", ".png", ".parquet", ".ico", ".woff2")
        if not path.is_file() or binary or path.stat().st_size > 2_000_000:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found = MACHINE.search(text)
        assert not found, f"{path.relative_to(ROOT)}: {found and found.group()}"


def test_no_pickle_is_tracked():
    wrong = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz"}
    assert [p for p in tracked() if p.suffix in wrong] == []
