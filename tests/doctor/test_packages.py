"""Findings about the Python packages, on real metadata and real imports in child processes."""

import sys

import pytest

from megatron_r1.doctor import packages
from megatron_r1.doctor.finding import Status
from megatron_r1.doctor.packages import TorchFacts

# What transformer_engine 2.20 does when its meta package stands alone, and when the extension is missing.
META_ALONE = 'raise RuntimeError("Found empty `transformer-engine` meta package installed.")'
NO_EXTENSION = 'raise FileNotFoundError("Could not find shared object file: transformer_engine_torch")'


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(packages, "torch_facts", TorchFacts)


@pytest.fixture
def nothing_installed(monkeypatch):
    """Only the standard library, and what `install` adds."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Writes a distribution into a folder in front of sys.path; source None: metadata only."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(name, *, version="2.20.2", source=None, module=None):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if source is not None:
            package = tmp_path / (module or name.replace("-", "_"))
            package.mkdir()
            (package / "__init__.py").write_text(source)
            (package / "pytorch.py").write_text("")
        return tmp_path

    return write


def test_transformer_engine_absent_is_fine(nothing_installed):
    finding = packages.transformer_engine()
    assert (finding.found, finding.status, finding.remedy) == ("absent", Status.ABSENT, "")


def test_transformer_engine_whose_import_works_is_fine(nothing_installed, install):
    install("transformer-engine", source="")
    assert packages.transformer_engine().status is Status.OK
    assert packages.transformer_engine().found == "2.20.2"


def test_the_meta_package_alone_is_recognised(nothing_installed, install):
    install("transformer-engine", source=META_ALONE)
    finding = packages.transformer_engine()
    assert finding.status is Status.BROKEN
    assert finding.found == "2.20.2, half-installed: no core library and no torch extension"
    assert "RuntimeError: Found empty" in finding.note
    assert finding.remedy.endswith("pip uninstall -y transformer-engine")
    assert "transformer_engine" not in sys.modules


def test_the_core_without_the_torch_extension_is_recognised(nothing_installed, install):
    install("transformer-engine", source=NO_EXTENSION)
    install("transformer-engine-cu13")
    finding = packages.transformer_engine()
    assert finding.found == "2.20.2, half-installed: no torch extension"
    assert "FileNotFoundError" in finding.note
    assert finding.remedy.endswith("pip uninstall -y transformer-engine transformer-engine-cu13")


def test_on_a_gpu_a_half_installed_engine_is_completed(install, monkeypatch):
    monkeypatch.setattr(packages, "torch_facts", lambda: TorchFacts(gpus=("NVIDIA H100 80 GiB",)))
    install("transformer-engine", source=META_ALONE)
    assert "install --no-build-isolation 'transformer-engine[pytorch]" in packages.transformer_engine().remedy


def test_all_parts_with_a_failing_import_are_damage(nothing_installed, install):
    install("transformer-engine", source="raise OSError('libcudart.so.13: cannot open')")
    install("transformer-engine-cu13")
    install("transformer-engine-torch")
    assert packages.transformer_engine().found == "2.20.2, damaged"


@pytest.mark.slow
def test_megatron_that_crashes_on_a_half_installed_engine_blames_the_engine(install):
    install("transformer-engine", source=META_ALONE)
    finding = packages.megatron_core()
    assert finding.status is Status.BROKEN
    assert finding.essential
    assert "RuntimeError: Found empty" in finding.note
    assert "Transformer Engine, which Megatron imports, is damaged" in finding.found
    assert "uninstall -y transformer-engine" in finding.remedy


def test_megatron_that_crashes_by_itself_is_rebuilt(install):
    install(
        "megatron-core", version="0.19.2", module="megatron", source="raise ImportError('no multiprocess')"
    )
    finding = packages.megatron_core()
    assert finding.status is Status.BROKEN
    assert "ImportError: no multiprocess" in finding.note
    assert finding.remedy == "make clean setup"


def test_what_the_core_needs_is_reported_missing(nothing_installed):
    for finding in (packages.torch(), packages.megatron_core()):
        assert (finding.found, finding.status, finding.essential) == ("missing", Status.BROKEN, True)
        assert finding.remedy == "make clean setup"


def test_torch_that_cannot_be_imported_is_damaged(install, monkeypatch):
    monkeypatch.setattr(packages, "torch_facts", lambda: TorchFacts(error="OSError: libcudart.so.13"))
    finding = packages.torch()
    assert finding.status is Status.BROKEN
    assert "libcudart.so.13" in finding.note


def test_flash_attention_built_for_another_torch_is_damaged(install):
    install("flash-attn", version="2.8.3", source="raise ImportError('undefined symbol: _ZN3c10')")
    finding = packages.flash_attn()
    assert finding.found == "2.8.3, damaged"
    assert "undefined symbol" in finding.note


def test_a_python_that_is_too_old_cannot_run(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    assert packages.python().status is Status.BROKEN
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    assert packages.python().status is Status.OK


def test_absent_apex_is_as_it_should_be(nothing_installed):
    finding = packages.apex()
    assert (finding.found, finding.status, finding.remedy) == ("absent", Status.OK, "")
    assert "web-authentication library" in finding.note


def test_the_other_library_called_apex_is_uninstalled(install):
    install("apex", version="0.9.10", source="")
    finding = packages.apex()
    assert finding.status is Status.BROKEN
    assert finding.remedy.endswith("-m pip uninstall -y apex")
    assert "FusedLayerNorm" in finding.note


def test_any_directory_called_apex_is_found_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "apex").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    finding = packages.apex()
    assert finding.status is Status.BROKEN
    assert finding.remedy == f"mv {tmp_path}/apex {tmp_path}/apex_renamed"
    assert "apex" not in sys.modules


def test_nvidias_apex_is_told_from_the_others(install):
    root = install("apex", version="0.1", source="")
    (root / "apex" / "normalization").mkdir()
    (root / "apex" / "normalization" / "fused_layer_norm.py").write_text("")
    assert packages.apex().status is Status.OK


def test_a_child_that_dies_of_a_signal_is_an_error():
    assert packages.run_child("import os; os.kill(os.getpid(), 9)") == ("", "exit code -9")


def test_a_child_sees_our_sys_path(install):
    install("made-up", source="")
    assert packages.run_child("import made_up; print('found')") == ("found\n", "")
