# What a person or a machine does with this repository. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo up test ci bench soak fmt lint tools clean

TOOLS := $(CURDIR)/.tools
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)
PROGRAMS := -p walwarden-server -p walwarden-runner -p walwarden-cli -p walwarden-verifier

# The demo and the tests start the pinned programs that `make tools` installs.
export PATH := $(TOOLS)/bin:$(PATH)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## back up a sample database, restore it, prove it, verify the evidence; then stop everything
	tests/tools/install.sh demo
	cargo build $(PROGRAMS)
	target/debug/walwarden-server demo

up: ## the whole product as one process on this machine, with a bucket to try
	tests/tools/install.sh demo
	cargo build $(PROGRAMS)
	target/debug/walwarden-server up --demo-bucket

test: ## every test, against real Postgres and S3 servers
	tests/tools/install.sh
	cargo build --workspace --bins
ifdef NEXTEST
	cargo nextest run --workspace --no-fail-fast
else
	cargo test --workspace --no-fail-fast --lib --bins --tests
endif

ci: ## what must pass before a change lands
	cargo fmt --all --check
	$(MAKE) --no-print-directory lint
	tests/tools/install.sh deny
	cargo deny --workspace check bans licenses sources
	tests/tools/check-template.sh
	$(MAKE) --no-print-directory test

lint: ## clippy, warnings refused
	cargo clippy --workspace --all-targets -- -D warnings

fmt: ## format the sources
	cargo fmt --all

bench: ## the runner and the CLI against pg_dump and pg_restore, on 1 GB; then their memory on unusual shapes
	tests/tools/install.sh
	cargo build --release -p walwarden-runner -p walwarden-cli
	cargo build -p walwarden-server -p walwarden-tests --bins
	target/debug/bench

soak: ## the long sweeps: many more property cases, the large samples, the slow restores
	tests/tools/install.sh
	cargo build --workspace --bins
	PROPTEST_CASES=20000 cargo test -p walwarden-verifier -p walwarden-contract -p walwarden-runner --lib
	cargo test -p walwarden-cli --test slow -- --ignored
	cargo test -p walwarden-tests --lib -- --ignored --skip a_process_with_a_child
	cargo test -p walwarden-tests --test e2e -- --ignored

tools: ## the pinned programs the tests use, into .tools/
	tests/tools/install.sh

clean: ## what was built; the tools stay (rm -r .tools)
	cargo clean
