# What one does with this repository. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
image ?= wasend-gateway:$(version)

# Where a release was built must not show in it. The last that fits a path counts.
home := $(or $(CARGO_HOME),$(HOME)/.cargo)
target := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
paths := $(home)=/cargo $(CURDIR)=/src $(target)=/target

.PHONY: help test soak fuzz lint fmt bench bench-asking bench-append bench-growth bench-hostile bench-prune bench-replicas demo image deny deny-advisories sbom release reproducible coverage mutants

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## Everything that must hold before a change goes in
	bash tests/setup.sh
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	cargo nextest run --locked
	cargo test --locked --doc
	bash fuzz/run.sh fixed
	bash tests/deploy.sh

fuzz: ## Fuzz for TIME seconds a target (default 600), guided by coverage
	bash fuzz/run.sh long $(or $(TIME),600)

soak: ## The tests by chance in full: kills, signals, faults of calls, provider, callers, policies, Redis, simulated histories (WASEND_SEED=N repeats one)
	WASEND_SOAK=50 cargo nextest run --locked --lib --test gateway -E 'test(/^(crash|crowding|full|injected|misplayed|mutated|power|reloading|replicas|signalled|simulation)::|^shared_rates::whatever_/)'

lint: ## Format and lints alone
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

fmt: ## Format the code
	cargo fmt

bench: ## Measure: the whole gateway from outside, then its parts
	bash benches/whole.sh
	cargo bench --locked

bench-asking: ## Measure how fast a ledger of ENTRIES entries is asked (default 1,000,000)
	bash benches/asking.sh

bench-append: ## Measure how fast the ledger takes entries, beside the same bytes straight to the disk
	cargo build --release --locked --quiet --example append
	folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; target/release/examples/append "$$folder"

bench-growth: ## Measure whether the ledger's size costs anything: at 0, 1 and 10 million entries (SIZES)
	bash benches/growth.sh

bench-hostile: ## Measure what callers that misbehave cost good ones: their p99 alone and beside SOCKETS slow sockets, floods, hang-ups
	bash benches/hostile.sh

bench-replicas: ## Measure what three replicas record in one PostgreSQL, beside one, and beside batches of one
	bash benches/replicas.sh

bench-prune: ## Measure what pruning ENTRIES entries (default 1,000,000) costs, and how long deletions wait meanwhile
	bash benches/prune.sh

demo: ## Show the gateway at work against the stand-in provider
	cargo run --locked --quiet -- demo

release: ## Build what ships; the same commit and compiler make the same bytes, wherever that is
	RUSTFLAGS="$(addprefix --remap-path-prefix=,$(paths))" CFLAGS="$(addprefix -ffile-prefix-map=,$(paths))" \
		cargo build --locked --release --bin wasend-gateway

reproducible: ## Build what ships twice, as differently as one may, and compare
	bash tests/reproducible.sh

image: ## Build the container image (image=NAME:TAG)
	docker build --build-arg version=$(version) --tag $(image) .

deny: ## Check what may be linked: bans, licences, sources (deny.toml)
	command -v cargo-deny || cargo install cargo-deny --version 0.20.2 --locked
	cargo deny --locked --all-features check bans licenses sources

deny-advisories: ## Check for known vulnerabilities; fetches the advisory database
	command -v cargo-deny || cargo install cargo-deny --version 0.20.2 --locked
	cargo deny --locked --all-features check advisories

sbom: ## Write the bill of materials (CycloneDX) to target/, and check it
	command -v cargo-cyclonedx || cargo install cargo-cyclonedx --version 0.5.9 --locked
	bash tests/sbom.sh

coverage: ## Say which lines of policy, target parsing and ledger the unit tests run
	bash tests/coverage.sh

mutants: ## Change the code in small ways and see whether a unit test notices (.cargo/mutants.toml); takes hours (ARGS="--shard 0/8")
	command -v cargo-mutants || cargo install cargo-mutants --version 27.1.0 --locked
	cargo mutants --output target $(ARGS)
