# The one door for people and CI. `make` alone lists what there is.
CARGO ?= cargo
# The committed Cargo.lock is what was tested. After changing Cargo.toml: make LOCKED= test
LOCKED ?= --locked
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
SHELLCHECK := $(shell shellcheck --version >/dev/null 2>&1 && echo yes)
AARCH64 := $(shell rustup target list --installed 2>/dev/null | grep -x aarch64-unknown-linux-gnu >/dev/null && echo yes)
DENY := $(shell $(CARGO) deny --version >/dev/null 2>&1 && echo yes)

.DEFAULT_GOAL := help
.PHONY: help build demo test check instructions bench bench-failover micro golden clean
# `make check test` runs one after the other: both use all CPUs, and tests dislike company.
.NOTPARALLEL:

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | awk -F'|' '{ printf "  make %-16s %s\n", $$1, $$2 }'

build: ## the release binary, target/release/pointsman
	scripts/install-deps build
	$(CARGO) build $(LOCKED) --release

demo: ## see it work: client, director, three servers (root); KEEP=1 leaves them running
	@scripts/demo

test: ## all tests, those in network namespaces included (root)
	scripts/install-deps test
	@[ "$$(id -u)" = 0 ] || echo "make test: NOT ROOT: the tests in network namespaces will fail; run it as root" >&2
	@if [ "$$(id -u)" = 0 ]; then scripts/lab/selftest; fi
	$(CARGO) build $(LOCKED) --workspace
ifeq ($(NEXTEST),yes)
	$(CARGO) test $(LOCKED) --workspace --doc
	$(CARGO) nextest run $(LOCKED) --workspace
else
	@echo "make test: cargo-nextest is not installed; the same tests, slower, by cargo test"
	$(CARGO) test $(LOCKED) --workspace
endif

check: ## formatting, lints, documentation, scripts, licences, instructions per packet
	scripts/install-deps check
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) --workspace --exclude dpdk-sys --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc $(LOCKED) --no-deps --workspace
ifeq ($(AARCH64),yes)
	$(CARGO) check $(LOCKED) --target aarch64-unknown-linux-gnu --no-default-features --lib --bins
else
	@echo "make check: no standard library for aarch64: the code was NOT checked for it (rustup target add aarch64-unknown-linux-gnu)"
endif
ifeq ($(SHELLCHECK),yes)
	shellcheck .ci/run scripts/demo scripts/bench scripts/install-deps scripts/lab/lab scripts/lab/selftest dpdk-config/*.sh bench/lab/*.sh bench/lab/*/*.sh
else
	@echo "make check: shellcheck is not installed: the scripts were NOT checked (apt-get install shellcheck)"
endif
ifeq ($(DENY),yes)
	$(CARGO) deny check bans licenses sources
else
	@echo "make check: cargo-deny is not installed: licences, bans and sources were NOT checked (cargo install cargo-deny)"
endif
	@$(MAKE) --no-print-directory instructions

# Without DPDK and huge pages, as any user: the counts are the same on every x86-64 machine.
instructions: ## instructions per packet, by callgrind: 3 % more than accepted fails; BLESS=1 accepts
	scripts/install-deps check
	$(CARGO) build $(LOCKED) --profile instructions -p pointsman-bench --no-default-features \
		--bin pointsman-instructions
	$${CARGO_TARGET_DIR:-target}/instructions/pointsman-instructions \
		$(if $(BLESS),bless,check) bench/instructions.json

bench: ## everything that has a goal, beside dpdk-testpmd: cycles, rates, memory (root)
	scripts/install-deps bench
	scripts/bench

bench-failover: ## how long clients wait when a director of a pair fails (root)
	scripts/install-deps demo
	$(CARGO) build $(LOCKED) --release --bin pointsman
	scripts/bench-failover

micro: ## the parts of a packet's way, each on its own, by criterion
	scripts/install-deps build
	$(CARGO) bench $(LOCKED) -p pointsman-bench --bench micro

golden: ## make the golden cases' captures anew, by scapy
	scripts/install-deps test
	/usr/bin/python3 tests/golden/generate.py

clean: ## remove what was built
	$(CARGO) clean
