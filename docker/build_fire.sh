#!/bin/sh
# Build the chroot image of FIRE: a file with an ext3 file system that holds all of the image `fire`.
# Usage: build_fire.sh IMAGE.img [EXPORT.tar]; without EXPORT.tar, of `docker export`, the image is built first.
# FREE is the number of MB that stay free in it, 200 if not set. As root, so that files keep their owners.
set -eu
image=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export=${2:-$work/export.tar}
if [ $# -lt 2 ]; then
  docker build --target fire --tag mrihvae-fire "$(dirname "$0")/.."
  container=$(docker create mrihvae-fire)
  docker export --output "$export" "$container"
  docker rm "$container" > /dev/null
fi
mkdir "$work/root"
tar -xf "$export" -C "$work/root"
# what files take, a sixth more for the file system's own tables, and the free part
used=$(du -sm "$work/root" | cut -f1)
rm -f "$image"
mke2fs -q -F -t ext3 -d "$work/root" "$image" "$((used * 7 / 6 + ${FREE:-200}))M"
echo "$image: give /opt/mrihvae/start_fire.sh as the chroot_command of fire.ini"
