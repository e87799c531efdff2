"""Elasticsearch and OpenSearch in memory, for tests: see server."""
