#!/usr/bin/env bash
# A base image for machines that reach no image registry: Debian's own Python, laid out by debootstrap. It is made once
# and stays in podman's storage.
set -euo pipefail
image=localhost/flowpod-base:trixie
podman image exists "$image" && exit
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3-venv trixie "$root"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
tar --create --directory "$root" . | podman import - "$image"
