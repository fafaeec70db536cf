#!/bin/sh
# boardfit's state belongs to the service's user. What root asks for is done as that user: a file of root's among it could
# not be written by the service any more. Verbs that keep no state, or write elsewhere as root, are left as they are.
program=/opt/boardfit/bin/boardfit
if [ "$(id -u)" = 0 ]; then
    case "${1:-}" in
    profile | doctor | sync | bench | select | deploy | rollback | once | status | explain | report)
        for word in "$@"; do
            case "$word" in --state-dir | --state-dir=*) exec "$program" "$@" ;; esac
        done
        exec runuser -u boardfit -- env STATE_DIRECTORY=/var/lib/boardfit "$program" "$@"
        ;;
    esac
fi
exec "$program" "$@"
