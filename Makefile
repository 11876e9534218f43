# make demo    the main job over real flights, killed again and again
# make demo-services  from a real Kafka into a real PostgreSQL and Kafka, with job, broker and database killed
# make test    everything that must hold: Rust and Python tests, lint, types, stubs
# make bench   figures, as ratios measured side by side (make bench-long: ten minutes of one file)
# make crash   kill the demo job N times at random moments (make crash N=5000)
# make crash-mixed   kill, stop, replace, wake a job with five kinds of sinks, and its producers (N=2000 lives)
# make zombies   stop a run at each of its points, replace it at each point of another, wake it: all pairs
# make soak-log   the embedded log under kills at full size: copiers, bank transfers, two jobs in a chain
# make soak-services   many real servers and a job that writes to all, killed, cut off and delayed (MINUTES=30)
# make soak-memory     a job from Kafka into PostgreSQL and Kafka that nothing happens to: whether its memory stays as it is (MINUTES=60)
# make soak-copiers    numbers copied from topic to topic of a real Kafka while both jobs and the broker are killed (NUMBERS=100000)
# make soak-transactions   35,000 transactions of one sink, and its id taken as often: more than a producer's epoch can count
# make bench-services  what sinks on real servers cost
# make bench-log  what the embedded log costs, beside a real Kafka and what people embed today
# make mutants   what tests notice when a line of the protocol is changed (checkpoint/, align/, backend/recovery.rs)
# make planted   what tests notice when a bound, a fact of a recovery or a message to the worker is broken
# make wheel   a wheel in dist/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
N ?= 200
MINUTES ?= 30
NUMBERS ?= 100000

.PHONY: demo demo-services test bench bench-long bench-log bench-services crash crash-mixed zombies soak-log soak-services soak-memory soak-copiers soak-transactions mutants planted wheel lint rust-test python-test release-build test-build clean

demo: release-build
	$(BIN)/python examples/flights.py

demo-services: release-build
	$(BIN)/python examples/flights_services.py

test: test-build lint rust-test python-test
	@echo "all tests passed"

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev --group bench
	touch $@

release-build: $(VENV)/installed
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --quiet --release

# With crash points compiled in, so that tests can kill the process at named places.
test-build: $(VENV)/installed
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --quiet --features crash-points

target/tools/bin/cargo-mutants:
	cargo install cargo-mutants --locked --quiet --root target/tools

# One folder a time, each against the tests that are about it, which alone are built.
MUTANTS = PATH="$(CURDIR)/target/tools/bin:$$PATH" nice cargo mutants --package onceflow-core --baseline skip --timeout 120
# Some mutants change nothing that can be seen, so each list is printed and none ends the run.
mutants: target/tools/bin/cargo-mutants
	mkdir -p target/mutants
	-$(MUTANTS) --output target/mutants/checkpoint --file 'rust/core/src/checkpoint/*.rs' --cargo-arg=--test=coordinator_steps --cargo-arg=--test=coordinator_recovery
	-$(MUTANTS) --output target/mutants/align --file 'rust/core/src/align/*.rs' --cargo-arg=--test=barrier_rules
	-$(MUTANTS) --output target/mutants/recovery --file rust/core/src/backend/recovery.rs --cargo-arg=--test=backend_history --cargo-arg=--test=backend_model --cargo-arg=--test=corruption

planted: test-build
	$(BIN)/python tests/planted/planted.py

lint: $(VENV)/installed
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets --features crash-points -- -D warnings
	test -z "$$(cargo tree --package onceflow-core --invert pyo3 2>/dev/null)"
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

rust-test:
	cargo test --quiet --package onceflow-core --features crash-points

python-test: test-build
	$(BIN)/python -m mypy.stubtest onceflow._native
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

bench: release-build
	$(BIN)/python benches/report.py

bench-long: release-build
	$(BIN)/python benches/report.py --long

bench-log: release-build
	$(BIN)/python benches/report.py --log

bench-services: release-build
	$(BIN)/python benches/report.py --services

crash: release-build
	$(BIN)/python tests/soak.py $(N)

crash-mixed: release-build
	$(BIN)/python tests/mixed/soak_mixed.py $(N)

zombies: test-build
	$(BIN)/python tests/zombies/zombies.py

soak-log: release-build
	$(BIN)/python tests/log/soak/soak.py

soak-services: release-build
	$(BIN)/python tests/systems/soak_services.py $(MINUTES)

soak-memory: release-build
	$(BIN)/python tests/systems/soak_memory.py $(MINUTES)

soak-copiers: release-build
	$(BIN)/python tests/kafka/soak_copiers.py $(NUMBERS)

soak-transactions: release-build
	$(BIN)/python tests/kafka/soak_transactions.py 70000

wheel: $(VENV)/installed
	$(BIN)/maturin build --quiet --release --out dist

clean:
	rm -rf $(VENV) target dist
