# make run     everything, from rendered faces to a FaceMap (OUT=runs/demo PRESET=demo DATA=)
# make test    lint and tests, the five notebooks among them
# make lab     JupyterLab on the notebooks (NOTEBOOKS=student: on the students' version)
# make student the students' version of the notebooks, with gaps for the exercises, in student/
# make size    lines of code by part, and what training loads

PYTHON ?= python3
PRESET ?= demo
OUT ?= runs/$(PRESET)
DATA ?=
NOTEBOOKS ?= notebooks
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: run test lab student size clean

run: $(VENV)/run.stamp
	$(BIN)/labkit run --preset $(PRESET) --out $(OUT) $(if $(DATA),--data $(DATA))

test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@! command -v node >/dev/null || find labkit data_scripts -name '*.js' | while read -r file; do \
	  node --input-type=module --check < $$file || { echo "in $$file" >&2; exit 1; }; done
	$(BIN)/python -m pytest

lab: $(VENV)/run.stamp
	$(BIN)/jupyter lab --notebook-dir $(NOTEBOOKS)

student: $(VENV)/run.stamp
	$(BIN)/python -c 'import nbgrader' 2>/dev/null || $(INSTALL) -e '.[course]'
	$(BIN)/python data_scripts/release.py student

size: $(VENV)/run.stamp
	@$(BIN)/python tests/benchmarks/size.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Python 3.10 or newer is needed: make run PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "the venv module is missing (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing (a few minutes the first time; PyTorch is about 5 GB on disk)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing (a few minutes the first time; PyTorch is about 5 GB on disk)"
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/run.stamp

clean:
	rm -rf $(VENV) runs
