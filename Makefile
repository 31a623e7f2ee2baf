# make demo        interpret the clips of samples/ with the bundled models, into results/demo/
# make test        lint and run the test suite
# make bench       time every stage against the public libraries, into benchmarks/README.md
# make notebooks   execute the notebooks in place, as they are committed
# make clean       remove what the first two made
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench notebooks clean

demo: .venv/ready
	$(BIN)/audiointerp interpret samples/*.wav --out results/demo --mask topK_30 \
		--weights weights/synthetic_logmel_robust.safetensors \
		--weights weights/synthetic_logstft_robust.safetensors

test: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2

bench: .venv/ready-test
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/compare.py --width 0.25 --front-end LogSTFTSpectrogram
	$(BIN)/python benchmarks/gains.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/busy.py
	$(BIN)/python benchmarks/truth.py
	$(BIN)/python benchmarks/table.py

notebooks: .venv/ready-test
	$(BIN)/python tests/notebooks.py

clean:
	rm -rf .venv results/demo

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

.venv/ready-test: .venv/ready requirements-test.txt
	$(BIN)/pip install --quiet --requirement requirements-test.txt
	touch $@
