# What a person or a pipeline types. Each target installs what it needs and nothing more.

SWIFT_BUILD = swift build --configuration release --static-swift-stdlib
BINARY = .build/release/kmsward
VENV = .build/venv
RUN_DIR ?= .run
METRICS ?= 127.0.0.1:9464

.DEFAULT_GOAL := help
.PHONY: help deps test-deps build run demo demo-jdcloud test unit-test end-to-end-test lint format reference dashboards bench sanitize deb image clean

help: ## Say what the targets do
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

deps: ## Install the Debian packages that the daemon is built with
	@ops/dev/install-packages build

test-deps: deps ## Install what the tests need besides
	@ops/dev/install-packages test
	@ops/dev/python-environment $(VENV)

build: deps ## Build the daemon: .build/release/kmsward
	$(SWIFT_BUILD) --product kmsward

run: build ## Serve with an embedded key, in the foreground; state in RUN_DIR=.run, METRICS=127.0.0.1:9464
	$(BINARY) serve --dev --run-dir $(RUN_DIR) --metrics $(METRICS)

demo: build ## Serve, play the API server once through both APIs, show each step, end
	@ops/dev/demo $(BINARY)

demo-jdcloud: build test-deps ## The same with a fake JD Cloud that fails meanwhile
	@ops/dev/demo-jdcloud $(BINARY) $(VENV)/bin/python

test: unit-test end-to-end-test ## Run every test

unit-test: test-deps
	KMSWARD_PYTHON=$(CURDIR)/$(VENV)/bin/python swift test --skip JDCloudProviderTests
	# Apart: it makes transports of its own, whose threads the transport's own tests would count.
	KMSWARD_PYTHON=$(CURDIR)/$(VENV)/bin/python swift test --skip-build --filter JDCloudProviderTests

end-to-end-test: build test-deps
	@# The watchdog's test holds the engine, which a release cannot be told to.
	swift build --product kmsward
	KMSWARD_BIN=$(CURDIR)/$(BINARY) $(VENV)/bin/python -m pytest -q Tests/EndToEnd

lint: ## Check format, imports and stray files
	swift format lint --strict --configuration .swift-format --recursive Package.swift Sources Tests
	@ops/dev/check-tree

format: ## Format the sources in place
	swift format --in-place --configuration .swift-format --recursive Package.swift Sources Tests

reference: build ## Write the generated pages of docs/ anew
	$(BINARY) config reference > docs/configuration.md
	@ops/dev/python-environment $(VENV)
	$(VENV)/bin/python ops/prometheus/metrics-page $(BINARY) > docs/metrics.md

dashboards: ## Write the dashboards of Grafana anew
	@ops/dev/python-environment $(VENV)
	$(VENV)/bin/python dashboards/generate.py

bench: build test-deps ## Compare with grpc-go and with an inline C-core echo; prints a table
	@ops/dev/install-packages bench
	KMSWARD_BIN=$(CURDIR)/$(BINARY) $(VENV)/bin/python ops/bench/run

sanitize: test-deps ## Run the tests under the thread and address sanitizers
	@ops/dev/sanitize thread
	@ops/dev/sanitize address

deb: build ## Pack it as a Debian package: .build/deb
	@ops/dev/install-packages package
	@ops/packaging/deb .build/deb $(BINARY)

image: build ## Make an OCI image of it, from Debian packages: .build/image
	@ops/dev/install-packages image
	@ops/image/build .build/image $(BINARY)

clean: ## Remove what was built
	rm -rf .build .build-*
