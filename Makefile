# make demo    the whole road, from meshes to a page of results   (SEEDS=3 for mean and std)
# make test    the tests
# make check   lint, format, types

PYTHON ?= python3
SEEDS ?= 1
VENV := .venv
BIN := $(VENV)/bin
# Set up once, and again when what is to be installed changes.
READY := $(VENV)/.ready

.PHONY: demo test check clean

demo: $(READY)
	$(BIN)/picpoint demo seeds=$(SEEDS)

test: $(READY)
	$(BIN)/python -m pytest -m "not slow and not gpu and not kaolin and not remote"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("picpoint needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV) runs
