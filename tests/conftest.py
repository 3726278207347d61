"""Shared test setup: shape checking, virtual devices, where real recordings lie."""

import collections
import importlib.metadata
import os
import pathlib
import shutil

# Compiling takes most of a test's time, and optimising most of compiling. The last is
# `cli.order_collectives`, which is not to be imported before the hook below.
# The middle one JAX 0.10 alone knows: an unknown flag aborts the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 "
    + "--xla_cpu_use_fusion_emitters=false "
    * importlib.metadata.version("jaxlib").startswith("0.10.")
    + "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)

import jax
import pytest
from jaxtyping import install_import_hook

# Before the first JAX operation: eight virtual CPU devices for the sharding tests.
jax.config.update("jax_num_cpu_devices", 8)

# Every annotated shape is checked in every test; users pay nothing for it.
install_import_hook("fmalign_jax", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests come first: no worker is left with one at the end."""
    slow = collections.Counter(
        item.path for item in items if item.get_closest_marker("slow")
    )
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Programs of one config compile once, as they do for a user, for all workers."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    # With a limit of size JAX locks what it reads and writes.
    jax.config.update("jax_compilation_cache_max_size", 2**32)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _shared_data_dir() -> pathlib.Path:
    default = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    return pathlib.Path(os.environ.get("FMALIGN_SHARED_DATA", default))


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real recordings; tests that need it skip where it is absent."""
    folder = _shared_data_dir()
    if not folder.is_dir():
        pytest.skip(f"real recordings not found at {folder}; set FMALIGN_SHARED_DATA")
    return folder


@pytest.fixture(scope="module")
def one_device():
    """Whole runs on one device: eight starve one another on a small machine."""
    import tiny  # after the hook that checks shapes

    with tiny.visible_devices(1):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder that the tests of one file share."""
    return tmp_path_factory.mktemp("shared")


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    """A headless browser, if one is installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        pytest.skip(f"no browser found: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=found[0], args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()
