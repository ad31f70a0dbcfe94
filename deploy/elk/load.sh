#!/usr/bin/env bash
# Loads everything of this folder into Elasticsearch and Kibana; may be run again at any time.
#   ELASTICSEARCH_URL=http://127.0.0.1:9200 KIBANA_URL=http://127.0.0.1:5601 deploy/elk/load.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
readonly elasticsearch="${ELASTICSEARCH_URL:-http://127.0.0.1:9200}" kibana="${KIBANA_URL:-http://127.0.0.1:5601}"

put() {  # path, file
    curl --fail --silent --show-error -X PUT "$elasticsearch/$1" -H 'content-type: application/json' --data-binary "@$2" >/dev/null
    echo "loaded $1"
}

put _ilm/policy/veltrix-logs ilm-policy.json
put _ingest/pipeline/veltrix-logs ingest-pipeline.json
put _index_template/veltrix-logs index-template.json
curl --fail --silent --show-error -X POST "$kibana/api/saved_objects/_import?overwrite=true" -H 'kbn-xsrf: veltrix' \
    --form file=@saved-searches.ndjson >/dev/null
echo "loaded saved searches"
