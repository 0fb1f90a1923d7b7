#!/bin/sh
# Start the server in FIRE's chroot, in the background. The first argument is the log file; without it nothing is logged.
# /tmp/share is the folder that the host shares, so that temporary files do not fill the image.
export TMPDIR=/tmp/share
PATH=/usr/local/bin:/usr/bin:/bin:$PATH
mrihvae serve --host 0.0.0.0 --allow-remote --port 9002 --pixels short > "${1:-/dev/null}" 2>&1 &
