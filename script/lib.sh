# shellcheck shell=bash disable=SC2154
# Sourced by demo and test. Expects $root, the checkout.

# Prepare the checkout, then run one of its programs as a user that may use Docker. If only root may, run it through
# sudo, and give the files that it made back to the caller.
run_in_checkout() { # PROGRAM [ARGUMENT…]
  if [ "${2:-}" = --help ] || [ "${2:-}" = -h ]; then
    exec python3 "$root/$1" --help
  fi
  "$root/script/bootstrap"
  if [ "$(id -u)" = 0 ] || docker info >/dev/null 2>&1; then
    exec "$root/.venv/bin/python" "$root/$1" "${@:2}"
  fi
  echo "Docker's engine is root's here (or to be installed): going on with sudo"
  trap 'sudo chown -R "$(id -u):$(id -g)" "$root/.cache" "$root/.venv"' EXIT
  sudo --preserve-env "$root/.venv/bin/python" "$root/$1" "${@:2}"
}
