#!/bin/sh
# Makes the links that udev makes, which does not run in a container.
while sleep 0.3; do
  mkdir -p /dev/disk/by-uuid
  for device in /dev/loop[0-9]*; do
    uuid=$(blkid --probe --match-tag UUID --output value "$device") &&
      ln --symbolic --force --no-dereference "$device" "/dev/disk/by-uuid/$uuid"
  done
done
