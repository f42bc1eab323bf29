#!/bin/sh
# Publishes one message on ssecast's admin socket:  publish.sh CHANNEL MESSAGE [EVENT-TYPE]
# Needs curl. Prints the answer; ends with an error if the message was not published.
set -eu

socket=${SSECAST_ADMIN:-/run/ssecast/admin.sock}
channel=${1:?publish.sh CHANNEL MESSAGE [EVENT-TYPE]} message=${2?publish.sh CHANNEL MESSAGE [EVENT-TYPE]} event=${3-}

# --data-urlencode NAME@- reads the message from standard input: nobody sees it in the process list, and no byte of it is special.
set -- --data-urlencode "channel=$channel" --data-urlencode message@-
[ -z "$event" ] || set -- "$@" --data-urlencode "event=$event"
printf %s "$message" |
    curl --silent --show-error --fail-with-body --max-time 10 --unix-socket "$socket" "$@" http://ssecast/publish
