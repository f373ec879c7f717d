#!/usr/bin/env bash
# A real aarch64 Python with a real aarch64 onnxruntime, to be run under qemu-user-static by the
# target arm64-emulated. No root is needed; nothing outside the folder is touched.
#
#   scripts/arm64-rootfs.sh [FOLDER]     default: ${XDG_CACHE_HOME:-~/.cache}/edgeprune/arm64
#
# Needs apt-get, dpkg, python3 with pip, and the network; about 200 MB. Once built it is kept.
set -euo pipefail

RELEASE=bookworm       # Debian 12: Python 3.11
ONNXRUNTIME=1.31.1
PYTHON="${PYTHON:-python3}"
FOLDER="${1:-${XDG_CACHE_HOME:-$HOME/.cache}/edgeprune/arm64}"
VERSION="$RELEASE onnxruntime-$ONNXRUNTIME 1"

if [ "$(cat "$FOLDER/version" 2>/dev/null)" = "$VERSION" ]; then
    echo "$FOLDER is complete"
    exit 0
fi
for tool in apt-get dpkg "$PYTHON"; do
    command -v "$tool" >/dev/null || { echo "error: $tool is needed and not here" >&2; exit 1; }
done

grep -qs "VERSION_CODENAME=$RELEASE" /etc/os-release || {
    echo "error: this needs Debian 12 ($RELEASE), whose Python 3.11 is the one that is unpacked" >&2
    exit 1
}

mkdir -p "$(dirname "$FOLDER")"
work="$(mktemp -d "$(dirname "$FOLDER")/arm64.XXXXXX")"
trap 'rm -rf "$work"' EXIT

# A private apt, for another architecture: this machine's sources, but none of its packages.
apt="$work/apt"
mkdir -p "$apt"/{lists/partial,archives/partial} "$work/rootfs/proc" "$work/site" "$work/wheels"
: > "$apt/status"
options=(
    -qq
    -o APT::Architecture=arm64 -o APT::Architectures=arm64
    -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status"
    -o Dir::Cache="$apt" -o Dir::Cache::Archives="$apt/archives"
    -o APT::Sandbox::User= -o Debug::NoLocking=1 -o Acquire::Languages=none -o Acquire::Retries=3
    -o APT::Install-Recommends=false
)
apt-get "${options[@]}" update
apt-get "${options[@]}" install --download-only --yes \
    python3.11-minimal libpython3.11-stdlib libstdc++6 libgomp1
for package in "$apt"/archives/*.deb; do
    dpkg -x "$package" "$work/rootfs"
done

"$PYTHON" -m pip download --quiet --disable-pip-version-check --dest "$work/wheels" --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    --python-version 3.11 "onnxruntime==$ONNXRUNTIME"
for wheel in "$work"/wheels/*.whl; do
    "$PYTHON" -m zipfile -e "$wheel" "$work/site"
done

# Importing onnxruntime crashes when it finds the cpuinfo of another architecture.
for core in 0 1; do
    printf 'processor\t: %d\nBogoMIPS\t: 125.00\n' "$core"
    printf 'Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\n'
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n'
done > "$work/rootfs/proc/cpuinfo"

echo "$VERSION" > "$work/version"
rm -rf "$apt" "$work/wheels" "$FOLDER"
chmod 755 "$work"
mv "$work" "$FOLDER"
trap - EXIT
echo "$FOLDER is complete"
