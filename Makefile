# make demo    a cluster of real processes on this machine, asked something over HTTP, up until Ctrl-C
# make test    all tests
# make lint    formatting and the import table
# One build configuration for all of them, so that nothing is compiled twice: release, whose modules tests may look into.
# On a terminal SwiftPM would give the compiler one more flag, and compile everything again.
export SWIFT_FLAGS := -c release -Xswiftc -enable-testing --no-color-diagnostics

.PHONY: build demo test lint format packages check-generated

packages:
	@ops/install-packages.sh

build: packages
	swift build $(SWIFT_FLAGS) --product tramontane

demo: build
	@ops/demo.sh

# The command line is built first: the cluster tests run it. Prometheus's promtool checks what is served at /metrics.
test: build
	@ops/install-packages.sh prometheus
	TRAMONTANE_TEST_PYTHON="$$(ops/python-environment.sh)" \
	    swift test $(SWIFT_FLAGS) --disable-testable-imports --disable-xctest

lint:
	swift format lint --strict -r Sources Tests Package.swift
	ops/check-imports.py

# Generated code is what protos/ says.
check-generated: packages
	protos/generate.sh --check

format:
	swift format -i -r Sources Tests Package.swift
