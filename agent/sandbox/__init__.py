"""What a process that opens a model may still do: files by Landlock, system calls by seccomp, privileges by capset.

    enter ──> landlock (which files, no TCP, no signals)   seccomp (which calls) ──> syscalls (their numbers)

Rules:
- A list of what is allowed, never of what is forbidden: what nobody thought of is refused.
- Every part says whether it is in force, and where it is not, why and what to do; nothing is claimed that was not set.
- Nothing here is imported by an agent that only waits: a child enters its own sandbox, and cannot leave it.
- The filter is put together here and not by libseccomp: pyseccomp had its last release in 2021, the library's own
  binding is in no package index, and libseccomp knows no call that is newer than itself, which a board's often is.
"""
