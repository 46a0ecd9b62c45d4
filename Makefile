# Short names for what meson and the scripts do. `make help` lists them.
PREFIX ?= /usr/local
BUILD := build
STATIC := build-static
SANITIZED := build-sanitized

compiler := gcc libc6-dev meson ninja-build pkg-config
libraries := libpng-dev libvncserver-dev libzydis-dev zlib1g-dev liblzma-dev libzstd-dev liblz4-dev libbz2-dev liblzo2-dev libslirp-dev libnbd-dev libjansson-dev
build_packages := $(compiler) $(libraries) binutils
check_packages := $(build_packages) gdb libcmocka-dev qemu-system-x86 ipxe-qemu qemu-utils e2fsprogs \
	seabios ovmf grub-common grub-pc-bin grub-efi-amd64-bin gdisk mtools nbdkit xorriso
check_long_packages := $(check_packages) stress-ng
# Peers that cannot be installed are left out.
bench_packages := qemu-system-x86 bochs bochsbios vgabios isolinux syslinux-common xorriso
proof_packages := seabios ovmf openssh-client dpkg qemu-system-x86

.PHONY: all demo check check-long bench image proof install clean help
all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) nestor

help:
	@echo "make demo      build Nestor, then run an L1 with KVM and an L2 inside it"
	@echo "make check     run all tests, in the ordinary and in the sanitized build"
	@echo "make check-long  run more whole guests, stress-ng in them among others"
	@echo "make bench     measure Nestor beside QEMU TCG and Bochs on the same guests (BENCH=\"--only nestor --runs 1\")"
	@echo "make image     build a Debian 12 disk image with KVM, libvirt and a guest in it: .cache/image/debian.img"
	@echo "make proof     build that image and have all of its parts work, through BIOS and EFI (PROOF=\"--compare\")"
	@echo "make install   install nestor and its man page below PREFIX ($(PREFIX))"
	@echo "make clean     remove what was built (.cache, with Debian's kernel, stays)"

# meson needs cmocka only to run the tests, and finds new test files when it is configured anew.
define configure
	@if [ -f $(1)/build.ninja ]; then meson setup --reconfigure $(1) $(2) >$(1)/setup.log; \
	else mkdir -p $(1) && meson setup $(1) $(2) >$(1)/setup.log; fi || { tail -n 5 $(1)/setup.log; exit 1; }
endef

$(BUILD)/build.ninja:
	@scripts/need $(build_packages)
	$(call configure,$(BUILD),-Dprefix=$(PREFIX))

demo:
	@scripts/need $(build_packages)
	$(call configure,$(BUILD),-Dprefix=$(PREFIX))
	$(call configure,$(STATIC),-Dstatic=true)
	@ninja --quiet -C $(BUILD) nestor
	@ninja --quiet -C $(STATIC) nestor
	@scripts/demo $(BUILD)/nestor $(STATIC)/nestor

check:
	@scripts/need $(check_packages)
	$(call configure,$(BUILD),-Dprefix=$(PREFIX))
	$(call configure,$(STATIC),-Dstatic=true)
	$(call configure,$(SANITIZED),-Db_sanitize=address$(comma)undefined)
	@scripts/check $(BUILD) $(SANITIZED) $(STATIC)

check-long:
	@scripts/need $(check_long_packages)
	$(call configure,$(BUILD),-Dprefix=$(PREFIX))
	$(call configure,$(STATIC),-Dstatic=true)
	@ninja --quiet -C $(BUILD) nestor
	@ninja --quiet -C $(STATIC) nestor
	@scripts/guest/build --qemu --others --stress $(STATIC)/nestor
	@meson test -C $(BUILD) --no-rebuild --suite long --print-errorlogs

bench:
	@scripts/need $(build_packages)
	@scripts/need $(bench_packages) || true
	$(call configure,$(BUILD),-Dprefix=$(PREFIX))
	$(call configure,$(STATIC),-Dstatic=true)
	@ninja --quiet -C $(BUILD) nestor
	@ninja --quiet -C $(STATIC) nestor
	@bench/run --nestor $(BUILD)/nestor --static $(STATIC)/nestor --output $(BUILD)/bench $(BENCH)

image:
	@mkdir -p .cache/image
	@scripts/image/build .cache/image/debian.img

proof: image
	@scripts/need $(build_packages) $(proof_packages)
	$(call configure,$(BUILD),-Dprefix=$(PREFIX))
	@ninja --quiet -C $(BUILD) nestor
	@scripts/proof --nestor $(BUILD)/nestor $(PROOF)

install:
	@scripts/need $(build_packages)
	$(call configure,$(BUILD),-Dprefix=$(PREFIX))
	@ninja -C $(BUILD) nestor
	@meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf $(BUILD) $(STATIC) $(SANITIZED)

comma := ,
