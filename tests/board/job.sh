# What the drivers here share. Sourced, never run.

# lay_out DIR DEB: a job's folder with README, the checks, the package, and the same package as a later revision.
lay_out() {
  mkdir -p "$1/old" "$1/new" "$1/raw"
  cp -r "$here/inside" "$top/README.md" "$1/"
  cp "$2" "$1/old/"
  dpkg-deb -R "$2" "$1/raw"
  sed -i -E 's/^(Version: [^+]*)(\+.*)?$/\1.1\2/' "$1/raw/DEBIAN/control"
  dpkg-deb --root-owner-group -Zgzip -z1 --build "$1/raw" "$1/new" >/dev/null
  rm -rf "$1/raw"
}

# registry_in_package DEB: where the demo's registry lies once the package is installed.
registry_in_package() { dpkg-deb -c "$1" | sed -n 's#.* \./\(opt/.*/agent/_demo_registry\)/root.json$#/\1#p'; }

# build_in_chroot SUITE WORK: builds the package inside an arm64 Debian under user emulation and prints its path. pip
# takes wheels that were gathered here, where that is quick.
build_in_chroot() {
  local suite=$1 work=$2 series glibc
  case $suite in bookworm) series=3.11 glibc=2.36 ;; trixie) series=3.13 glibc=2.41 ;; *) echo "unknown suite $suite" >&2; return 2 ;; esac
  local wheels=${BOARD_CACHE:-$PWD/.board-cache}/wheels-$suite one
  local tools=${BOARD_CACHE:-$PWD/.board-cache}/tools
  [ -x "$tools/bin/pip" ] || python3 -m venv "$tools" >&2
  "$tools/bin/pip" install --quiet --require-hashes -r "$top/requirements/package.lock" >&2
  for one in agent package; do
    "$tools/bin/python" "$top/package/wheelhouse.py" --lock "$top/requirements/$one.lock" --python $series --arch aarch64 --glibc $glibc "$wheels" >&2
  done
  mkdir -p "$work/build/source"
  cp -r "$wheels" "$work/build/wheels"
  (cd "$top" && tar -c --exclude=__pycache__ agent benchmarks/zoo/registry profiles pyproject.toml README.md LICENSE CHANGELOG.md package requirements systemd) | tar -x -C "$work/build/source"
  "$here/chroot-board.sh" --suite "$suite" --in "$work/build" --out "$work/built" --timeout 3600 -- \
    bash -c 'WHEELHOUSE=/job/in/wheels DEB_COMPRESSION="-Zgzip -z1" /job/in/source/package/build-deb.sh /job/out' >&2
  ls "$work"/built/boardfit_*.deb
}
