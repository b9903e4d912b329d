#!/bin/sh
# Makes the keys and passwords that Compose asks for: `.env` beside docker-compose.yml, and secrets/metrics_key.
#
# What is set already stays, so it may run again: after a change of FEDLAS_METRICS_KEY, or when a release asks for more.
set -eu
umask 077
cd "$(dirname "$0")/.."

test -e .env || cp .env.example .env
test -z "$(tail -c 1 .env)" || echo >>.env
for name in FEDLAS_API_KEY FEDLAS_METRICS_KEY FEDLAS_GRAFANA_PASSWORD FEDLAS_DATABASE_PASSWORD \
    FEDLAS_BROKER_PASSWORD FEDLAS_BUCKET_PASSWORD; do
    grep -q "^$name=" .env || echo "$name=" >>.env
    value=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
    sed "s/^$name=\$/&$value/" .env >.env.new
    mv .env.new .env
done

# Prometheus runs as a user that this machine may not know, and reads the file itself: open to all, in a closed folder.
mkdir -p secrets
chmod 700 secrets
rm -f secrets/metrics_key
sed -n 's/^FEDLAS_METRICS_KEY=//p' .env | tr -d '\n' >secrets/metrics_key
chmod 444 secrets/metrics_key
echo "Keys and passwords are in .env and secrets/metrics_key; next: docker compose up --build --detach --wait"
