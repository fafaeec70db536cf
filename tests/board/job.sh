# What the drivers here share. Sourced, never run.

# lay_out DIR DEB SUITE: a job's folder with README, the checks, the package, what it holds of Python, and a later version
# of it (later.py), whose bytecode is made by the release's own Python.
lay_out() {
  local site arch old new
  mkdir -p "$1/old" "$1/new" "$1/raw" "$1/files" "$1/later"
  cp -r "$here/inside" "$top/README.md" "$1/"
  cp "$top/tests/scenarios/consumer.py" "$1/inside/"
  cp "$2" "$1/old/"
  dpkg-deb -R "$2" "$1/raw"
  arch=$(dpkg-deb -f "$2" Architecture)
  site=$(cd "$1/raw" && echo opt/boardfit/lib/python3*/site-packages)
  (cd "$1/raw/$site" && cp -r agent msgspec psutil yaml _yaml "$1/files/")
  old=$(dpkg-deb -f "$2" Version | cut -d- -f1)
  new=$(python3 "$here/later.py" "$1/raw/$site")
  sed -i "s/^Version: $old\$/Version: $new/" "$1/raw/$site/boardfit-$old.dist-info/METADATA"
  sed -i "s/^Version: $old-/Version: $new-/" "$1/raw/DEBIAN/control"
  cp -r "$1/raw/$site/agent" "$1/later/"
  find "$1/later" -name __pycache__ -prune -exec rm -r {} +
  "$here/chroot-board.sh" --arch "$arch" --suite "$3" --in "$1/later" --out "$1/compiled" --timeout 900 -- bash -c \
    "cp -r in/agent out/ && python3 -m compileall -q --invalidation-mode unchecked-hash -s /job/out -p /$site /job/out/agent" >&2
  rm -rf "$1/raw/$site/agent"
  mv "$1/compiled/agent" "$1/raw/$site/agent"
  (cd "$1/raw" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$1/md5sums"
  mv "$1/md5sums" "$1/raw/DEBIAN/md5sums"
  dpkg-deb --root-owner-group -Zgzip -z1 --build "$1/raw" "$1/new" >/dev/null
  rm -rf "$1/raw" "$1/later" "$1/compiled"
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
