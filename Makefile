# The words a newcomer needs. `make help` lists them; each does all the set-up that it needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo up down cluster cluster-down images test plugin bench bench-planner bench-files tools generate

TARGET := $(or $(CARGO_TARGET_DIR),target)

# A cluster to use is given on the command line, `make test KUBECONFIG=…`. The variable of the same name in the
# environment is the cluster that somebody last worked on, which is not asked for here. None of ours looks at it, either.
ifeq ($(origin KUBECONFIG),command line)
GIVEN := $(abspath $(KUBECONFIG))
endif
unexport KUBECONFIG

# What `make up` takes, each as NAME=value.
UP := $(if $(GIVEN),--kubeconfig=$(GIVEN)) $(if $(NAMESPACE),--namespace=$(NAMESPACE)) \
      $(if $(BRIDGE_PORT),--bridge-port=$(BRIDGE_PORT)) $(if $(FTP_PORT),--ftp-port=$(FTP_PORT)) \
      $(if $(TFTP_PORT),--tftp-port=$(TFTP_PORT)) $(if $(HTTP_PORT),--http-port=$(HTTP_PORT)) \
      $(if $(UDP_PORT),--udp-port=$(UDP_PORT)) \
      $(if $(CONTROLLER_METRICS_PORT),--controller-metrics-port=$(CONTROLLER_METRICS_PORT)) \
      $(if $(BRIDGE_METRICS_PORT),--bridge-metrics-port=$(BRIDGE_METRICS_PORT))

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
	@echo
	@echo "make up takes BRIDGE_PORT=, FTP_PORT=, TFTP_PORT=, HTTP_PORT=, UDP_PORT=, CONTROLLER_METRICS_PORT=,"
	@echo "BRIDGE_METRICS_PORT= (free ports otherwise), and with make test KUBECONFIG= (a cluster that exists); make up also NAMESPACE= (fettle otherwise),"
	@echo "make test also LOAD= (a command that brings the archive of an image there, such as 'kind load image-archive')."

demo: programs ## twenty simulated devices are upgraded before your eyes
	@$(TARGET)/debug/dev demo

up: programs ## Fettle on this machine, for your own devices; target/up/env says where
	@$(TARGET)/debug/dev up $(UP)

down: ## ends what `make up` started
	@if [ -x $(TARGET)/debug/dev ]; then $(TARGET)/debug/dev down; else echo "nothing is up"; fi

cluster: programs ## a real node of Kubernetes on this machine (root on Linux), which runs pods
	@$(TARGET)/debug/dev cluster

cluster-down: ## ends what `make cluster` started, without a trace
	@if [ -x $(TARGET)/debug/dev ]; then $(TARGET)/debug/dev cluster-down; else echo "no cluster is up"; fi

images: prerequisites ## the container image, without Docker; the node of `make cluster` gets it
	@echo "building the programs, optimised (minutes the first time)"
	@cargo build --quiet --release --package fettle-controller --package fettle-bridge --package fettle-tests --bins
	@$(TARGET)/release/dev images $(if $(IMAGE),--name=$(IMAGE))

# The programs are built as the tests are, in one go: built otherwise, much would be compiled twice.
test: prerequisites ## the whole suite: unit tests, protocol goldens, end to end
	@tools/packages
	@echo "building the programs and the tests (minutes the first time)"
	@cargo build --quiet --workspace --all-targets
	@$(if $(GIVEN),FETTLE_KUBECONFIG=$(GIVEN)) $(if $(LOAD),FETTLE_CLUSTER_LOAD='$(LOAD)') $(TARGET)/debug/dev test-env -- cargo test --workspace $(ARGS)

plugin: prerequisites ## builds kubectl-fettle, the plugin of kubectl, and says where it is
	@echo "building the plugin, optimised (minutes the first time)"
	@cargo build --quiet --release --package kubectl-fettle
	@echo "$(abspath $(TARGET))/release/kubectl-fettle is built. kubectl finds it on the PATH:"
	@echo "  sudo install $(abspath $(TARGET))/release/kubectl-fettle /usr/local/bin/ && kubectl fettle get"

bench: prerequisites ## figures: devices per second, API writes, latency, memory
	@echo "building the programs, optimised (minutes the first time)"
	@cargo build --quiet --release --workspace --bins
	@$(TARGET)/release/dev bench $(ARGS)

bench-planner: prerequisites ## figures: what a pass over 1,000 to 100,000 devices costs
	@echo "building the controller, optimised (minutes the first time)"
	@cargo bench --quiet --package fettle-controller --bench planner -- $(ARGS)

bench-files: prerequisites ## figures: the file servers beside vsftpd, nginx, tftpd-hpa and atftpd
	@tools/packages
	@echo "building the bridge, optimised (minutes the first time)"
	@cargo bench --quiet --package fettle-bridge --bench files -- $(ARGS)

generate: prerequisites ## writes the definitions and the reference of the API, and the chart's README, anew, from the types and the values
	@cargo run --quiet --package fettle-crds --bin crdgen -- docs/api.md crds/yaml charts/fettle/files/crds
	@cargo run --quiet --package fettle-tests --bin dev -- chart-readme

tools: programs ## builds what tests and demo start besides: kube-apiserver, etcd, kubectl, helm, Flux
	@$(TARGET)/debug/dev tools

.PHONY: programs prerequisites
programs: prerequisites
	@echo "building the programs (a few minutes the first time)"
	@cargo build --quiet --workspace --bins

prerequisites:
	@tools/prerequisites
