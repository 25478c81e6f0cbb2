# Privnet. Each target installs what it needs first (tests/setup) and says so.
#
#   make demo          shows Privnet at work on a simulated internet; KEEP=1: stays up until Ctrl-C
#   make test          everything that CI checks
#   make test-matrix   the namespace tests with other numbers of workers and with offloads off (40 minutes;
#                      MATRIX="2: 4:all": only with 2 workers, and with 4 without any offload)
#   make lint          the part of it that runs nothing
#   make bench         the data plane beside other userspace WireGuards (20 minutes; tests/BENCH.md), then
#                      the benches of single parts; BENCH=--quick: 3 minutes; BENCH=--help: what else there is
#   make profile       where the data plane spends its time (needs perf)
#   make swarm         a hub with 10,000 peers, alone (tests/BENCH.md); SWARM=--help
#   make scale         a hub that polls 5,000 spokes in 20 regions of 3 accounts, which exist in a
#                      simulated EC2 alone (10 minutes; tests/BENCH.md); SCALE=--help
#   make fuzz          ten minutes of fuzzing for each target; needs a nightly toolchain
#   make images        the disk images of hub and spoke, into IMAGES=DIRECTORY; needs root (ami/image; 15 minutes,
#                      most of it the release build). TWICE=1: builds each twice and compares
#   make test-image    boots them under QEMU in the simulated internet (15 minutes; tests/IMAGE.md), where the hub's also gets
#                      its packages. TWICE=1: the page says whether a second build was the same
#   make test-image-arm64  the same with those for arm64, on x86-64 (30 minutes; writes tests/IMAGE-arm64.md)
#   make packages      .deb and .rpm of hub, spoke and tunnels, into PACKAGES=DIRECTORY (ami/packages)
#   make test-packages makes them twice, and installs, upgrades and removes them in a new Debian; needs root (5 minutes)
#   make build         all programs, tests and benches, as the demo and the tests use them
#   make release       all that is published, into RELEASE=DIRECTORY: programs and packages for x86-64 and arm64, images,
#                      checksums (ami/README.md); needs root (50 minutes)
#
# The same packages with the same features in every line, --workspace --all-targets: cargo would
# otherwise build the AWS SDK again with others (5 minutes).

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/privnet
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(CACHE)/venv/bin:$(PATH)
# Nothing here may ask this machine's own instance metadata.
export AWS_EC2_METADATA_DISABLED = true

ALL := --workspace --all-targets --locked

IMAGES ?= $(CACHE)/images
PACKAGES ?= $(CACHE)/packages
RELEASE ?= $(CACHE)/release
PROGRAMS := privnet-hub privnet-spoke tunnels privnet-boot
# What is shipped, and what boots it. Always these, so that images, packages and release build once.
IMAGE_PROGRAMS := $(PROGRAMS) privnet-sim image nat

ifeq ($(shell uname -m),aarch64)
ARCH := arm64
OTHER := x86_64
else
ARCH := amd64
OTHER := aarch64
endif
# No paths of this machine in what is shipped. Our own files have none: cargo names them from the workspace on. The
# checkout's would build every dependency again in another one.
SHIPPED = RUSTFLAGS="--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo" cargo build --release --workspace --locked
HERE := $(CARGO_TARGET_DIR)/release
THERE := $(CARGO_TARGET_DIR)/$(OTHER)-unknown-linux-gnu/release

.PHONY: demo test test-matrix lint bench profile swarm scale fuzz images test-image packages test-packages build release
.PHONY: programs other-programs test-image-arm64 setup

demo: build
	@exec "$(CARGO_TARGET_DIR)/debug/demo" $(if $(KEEP),--keep)

test: lint build
	@tests/run-all

test-matrix: build
	@tests/run-matrix $(MATRIX)

# The documentation of libraries only: `--examples` makes cargo choose the features of --all-targets.
lint: setup
	cargo fmt --all --check
	cargo clippy $(ALL) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --lib --examples --locked
	cargo deny --all-features --locked check bans licenses sources
	cfn-lint ami/cloudformation/*.yaml
	for role in hub spoke; do \
	  packer validate -var role=$$role -var region=eu-west-1 -var packages=ami/packer ami/packer/privnet.json || exit; done
	@tests/advisories

build: setup
	cargo build $(ALL)

# Linked by Debian's cross compiler.
other-programs: programs
	@ami/release-setup
	CARGO_TARGET_$(if $(filter aarch64,$(OTHER)),AARCH64,X86_64)_UNKNOWN_LINUX_GNU_LINKER=$(OTHER)-linux-gnu-gcc \
	$(SHIPPED) --target $(OTHER)-unknown-linux-gnu $(addprefix --bin ,$(PROGRAMS))

release: other-programs
	@ami/release $(if $(filter amd64,$(ARCH)),"$(HERE)" "$(THERE)","$(THERE)" "$(HERE)") "$(IMAGES)" "$(RELEASE)"

# Only these packages: nothing that is measured needs the AWS SDK, and what is measured is as shipped.
bench: setup
	@tests/setup-bench
	cargo build --release -p privnet-dataplane --locked
	cargo build -p privnet-tests --bin bench --bin nat --locked
	"$(CARGO_TARGET_DIR)/debug/bench" $(BENCH)
	"$(CARGO_TARGET_DIR)/debug/nat"
	@$(MAKE) --no-print-directory swarm
	cargo bench -p privnet-tests --bench '*' --locked

profile: setup
	@tests/setup-bench
	cargo build --profile profiling -p privnet-dataplane --locked
	cargo build -p privnet-tests --bin bench --locked
	"$(CARGO_TARGET_DIR)/debug/bench" --perf $(or $(BENCH),--only privnet --workload tcp1 --seconds 20)

swarm: setup
	cargo build --release -p privnet-dataplane --locked
	cargo build -p privnet-tests --bin swarm --locked
	"$(CARGO_TARGET_DIR)/debug/swarm" $(SWARM)

# The programs as the tests use them: what is measured is mostly the simulated EC2's time anyway.
scale: build
	@"$(CARGO_TARGET_DIR)/debug/scale" $(SCALE)

fuzz:
	@tests/fuzz/run

# Where cargo built from another checkout it takes our files for those, unless they are newer.
programs: setup
	@if [ "$$(cat "$(HERE)/checkout" 2>&1)" != "$(CURDIR)" ]; then \
	  git ls-files -z --cached --others --exclude-standard | xargs -0 touch --no-create && \
	  mkdir -p "$(HERE)" && echo "$(CURDIR)" >"$(HERE)/checkout"; \
	fi
	$(SHIPPED) $(addprefix --bin ,$(IMAGE_PROGRAMS))

images: programs
	@ami/image/setup
	@ami/image/images $(if $(TWICE),--twice) "$(HERE)" "$(IMAGES)"

test-image: images packages
	@ami/image/setup-coldsnap
	"$(HERE)/image" --packages "$(PACKAGES)" "$(IMAGES)"

# On arm64 the other programs are not what these images take.
ifeq ($(ARCH),arm64)
test-image-arm64:
	@echo "test-image-arm64: it is for x86-64; here \`make test-image\` boots the images for arm64" >&2; exit 2
else
test-image-arm64: other-programs
	@ami/image/setup arm64
	@ami/image/images $(if $(TWICE),--twice) --arch arm64 "$(THERE)" "$(IMAGES)"
	@ami/packages/build arm64 "$(THERE)" "$(PACKAGES)"
	"$(HERE)/image" --arch arm64 --packages "$(PACKAGES)" "$(IMAGES)"
endif

packages: programs
	@ami/packages/setup
	@ami/packages/build $(ARCH) "$(HERE)" "$(PACKAGES)"

test-packages: programs
	@ami/packages/setup
	@ami/packages/test $(ARCH) "$(HERE)"

setup:
	@tests/setup
