# make demo    the whole road, from meshes to a page of results   (SEEDS=3 for mean and std)
# make test    the tests
# make faults  the tests that take long: they kill processes, break requests, fuzz meshes; minutes (KILLS=few: fewer)
# make soak    render, pre-train and tune on three raylets with kills; some ten minutes
# make check   lint, format, types
# make data    820 pieces of furniture and 6,227 electronic parts, rendered   (Debian; an hour)

PYTHON ?= python3
SEEDS ?= 1
VENV := .venv
BIN := $(VENV)/bin
# Set up once, and again when what is to be installed changes.
READY := $(VENV)/.ready

.PHONY: demo test faults soak check data clean

demo: $(READY)
	$(BIN)/picpoint demo seeds=$(SEEDS)

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile \
		-m "not slow and not gpu and not kaolin and not remote"

faults: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --timeout 1200 \
		-m "slow and not soak and not gpu and not kaolin and not remote"

soak: $(READY)
	$(BIN)/python -m pytest -m soak -s

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Both are Debian packages, unpacked and not installed; their licences ask for credit (CC-BY 3.0 and
# CC-BY-SA 4.0), so what is made of them is not in this repository.
data: data/furniture/.ready data/kicad/.ready
	$(BIN)/picpoint render source=data/furniture out=data/shards/furniture shapes_per_shard=64
	$(BIN)/picpoint render source=data/kicad out=data/shards/kicad shapes_per_shard=64

data/furniture/.ready: $(READY)
	mkdir -p $(@D)
	cd $(@D) && apt-get download sweethome3d-furniture
	dpkg-deb --fsys-tarfile $(@D)/*.deb | tar --extract --directory $(@D) --wildcards '*.sh3f' --strip-components 5
	rm $(@D)/*.deb && touch $@

data/kicad/.ready: $(READY)
	mkdir -p $(@D)
	cd $(@D) && apt-get download kicad-packages3d
	dpkg-deb --fsys-tarfile $(@D)/*.deb | tar --extract --directory $(@D) --wildcards '*.wrl' --strip-components 5
	rm $(@D)/*.deb && touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("picpoint needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV) runs
