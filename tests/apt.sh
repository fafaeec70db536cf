#!/bin/sh
# Installs the Debian packages the tests need: a real broker, a real database, a browser, strace for the kill tests,
# systemd-analyze for the unit, and libfaketime for wall clocks that are wrong.
# In CI a Prometheus too, which reads what a fleet exports; elsewhere those tests run where it is there.
set -eu
packages="mosquitto postgresql strace chromium systemd libfaketime"
[ "${CI:-}" = true ] && packages="$packages prometheus"
missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then
    run=""
elif sudo -n true 2>/dev/null; then
    run="sudo"
else
    echo "make test needs these Debian packages and cannot install them without root: apt-get install$missing" >&2
    exit 1
fi
$run apt-get update -qq
# Broker and database are started by the tests on ports of their own; Debian's services are not wanted.
DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $run apt-get install -y -qq --no-install-recommends $missing >/dev/null
