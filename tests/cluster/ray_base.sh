#!/usr/bin/env bash
# An image in the place of Ray's, for builders that cannot download it. It has what cluster/docker/Dockerfile relies on,
# as Ray's image has it: the user ray (1000:100) who may sudo, a Python 3.11 of that user's own in ~/anaconda3, first in
# PATH, with Ray and with packages older than constraints.txt wants, and no compiler. The rest is Debian instead of
# Ubuntu, and a virtual environment instead of conda. As root, with Debian's buildah and mmdebstrap:
#
#   tests/cluster/ray_base.sh NAME RAY_VERSION [options of buildah run, such as --volume for pip's settings]
set -euo pipefail
name=$1 version=$2
shift 2

box=$(buildah from scratch)
trap 'buildah rm "$box" > /dev/null' EXIT
root=$(buildah mount "$box")

mmdebstrap --variant=apt --include=ca-certificates,python3.11-venv,sudo bookworm "$root"
chroot "$root" useradd --create-home --shell /bin/bash --uid 1000 --gid 100 ray
echo 'ray ALL=NOPASSWD: ALL' >> "$root/etc/sudoers"

paths=/home/ray/anaconda3/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
buildah config --user 1000 --workingdir /home/ray --env HOME=/home/ray --env "PATH=$paths" --env LC_ALL=C.UTF-8 "$box"
buildah run --isolation chroot "$@" "$box" -- python3.11 -m venv anaconda3
buildah run --isolation chroot "$@" "$box" -- pip install --no-cache-dir --upgrade pip
buildah run --isolation chroot "$@" "$box" -- \
    pip install --no-cache-dir "ray[default]==$version" numpy==1.26.4 pandas==2.3.3 pydantic==2.12.5

buildah umount "$box" > /dev/null
buildah commit "$box" "$name"
