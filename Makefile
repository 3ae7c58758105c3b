PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
FRAMEWORKS := tensorflow jax mxnet

.PHONY: demo test test-amx test-sanitized test-frameworks bench clean

demo: $(INSTALLED)  ## train on the embedded digits, test, show where the results are
	$(BIN)/densekit demo

test: $(INSTALLED)  ## lint, types, import contract, all tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest  # small tensors: threads would only wait for each other

STEPS := tests/engine/test_engine_ops.py tests/engine/test_layers.py tests/engine/test_ops_bfloat16.py tests/engine/test_pool_steps.py

test-amx: $(INSTALLED)  ## the steps for AMX, emulated by AVX-512 with bfloat16
	CXX="c++ -include $(CURDIR)/tests/engine/amx_emulation.hpp" XDG_CACHE_HOME=$$(mktemp -d) OMP_NUM_THREADS=1 \
		$(BIN)/pytest -k bfloat16 $(STEPS) tests/engine/test_fused_precision.py

test-sanitized: $(INSTALLED)  ## the compiled steps under the address and undefined-behaviour sanitizers
	CXX="c++ -g -DSANITIZED -fsanitize=address,undefined -fno-sanitize-recover=undefined" XDG_CACHE_HOME=$$(mktemp -d) \
		LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		OMP_NUM_THREADS=2 $(BIN)/pytest $(STEPS)

test-frameworks: $(INSTALLED) $(FRAMEWORKS:%=.venv-frameworks/%/installed)  ## exports to Keras and MXNet, computed there
	DENSEKIT_FRAMEWORKS=$(CURDIR)/.venv-frameworks OMP_NUM_THREADS=1 $(BIN)/pytest tests/export/test_frameworks.py

bench: $(INSTALLED)  ## figures of this machine, in under 10 minutes on two cores
	$(BIN)/python benchmarks/bench_startup.py --runs 5
	$(BIN)/python benchmarks/bench_dense_block.py --runs 3
	$(BIN)/python benchmarks/bench_train_step.py --no-compiled --runs 3
	$(BIN)/python benchmarks/bench_train_step.py --no-compiled --no-memory --networks densenet_bc100_k12_cifar --batch 64 --runs 3
	$(BIN)/python benchmarks/bench_train_step.py --no-compiled --no-memory --infer --runs 3
	$(BIN)/python benchmarks/bench_train_step.py --no-compiled --no-memory --infer --batch 1 --runs 9

# Made again only when what is to be installed changes, so that everything works without network afterwards.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "densekit needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# Each is an environment of its own, 2.5 GB together. MXNet needs a NumPy that has no wheels after Python 3.11.
.venv-frameworks/%/installed: requirements-frameworks/%.txt
	$(PYTHON) -m venv .venv-frameworks/$*
	.venv-frameworks/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

clean:  ## remove the environments and caches, never a run
	rm -rf .venv .venv-frameworks build .pytest_cache .ruff_cache .import_linter_cache
