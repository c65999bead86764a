"""What `/metrics` shows, by Prometheus naming rules."""

from prometheus_client import Counter, Gauge, Histogram

JOBS_SUBMITTED = Counter("aos_jobs_submitted_total", "Jobs accepted and stored")
SUBMISSIONS_REFUSED = Counter(
    "aos_submissions_refused_total", "Submissions refused with 429, by the limit that they met", ["limit"]
)
HTTP_REFUSED = Counter(
    "aos_http_refused_total", "Connections and requests refused for what they would cost, by why", ["why"]
)
JOBS_ENDED = Counter("aos_jobs_ended_total", "Jobs that reached a terminal status", ["status"])
ROUND_SECONDS = Histogram(
    "aos_round_seconds",
    "From leasing a round to closing it",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
RESULTS_ACCEPTED = Counter("aos_results_accepted_total", "Results that passed every check")
RESULTS_REJECTED = Counter("aos_results_rejected_total", "Results and scores kept as rejected evidence")
SCORES_ACCEPTED = Counter("aos_scores_accepted_total", "Scores that passed every check")
ATTESTATIONS = Counter(
    "aos_attestations_total",
    "Answers to tee jobs by what is said to vouch for their enclave, and whether it was believed",
    ["kind", "outcome"],
)
VERDICTS = Counter("aos_verdicts_total", "Verdicts of rounds that were verified", ["outcome"])
TICKETS = Counter("aos_tickets_total", "Answers to draws", ["outcome"])
FRAMES_REFUSED = Counter("aos_frames_refused_total", "Frames refused on /ws", ["why"])
OPERATORS_CONNECTED = Gauge("aos_operators_connected", "Operators connected to this process")
THROTTLE_ALONE = Gauge(
    "aos_throttle_alone", "1 while redis is away, and this process counts requests by itself, 0 else"
)
FIRST_TEXT_SECONDS = Histogram(
    "aos_gateway_first_text_seconds",
    "From a streamed request under /v1 to the first text that its client was sent",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
STREAM_DELTAS = Counter("aos_stream_deltas_total", "Deltas of streamed jobs that are led here", ["outcome"])
STREAMS_ENDED = Counter("aos_streams_ended_total", "Jobs that were followed to their end", ["outcome"])
STATS_LISTENERS = Gauge("aos_stats_listeners", "Who listens to this process on /ws/stats")
IMAGES_KEPT = Gauge("aos_images_kept", "Images in the database of this dispatcher, whole or not")
IMAGE_BYTES_KEPT = Gauge("aos_image_bytes_kept", "Bytes of the images in the database of this dispatcher")
MESH_PROCESSES = Gauge("aos_mesh_processes", "Other processes of this dispatcher that are there")
MESH_DROPPED = Counter("aos_mesh_dropped_total", "Messages to other processes that redis did not take")
MESH_REFUSED = Counter("aos_mesh_refused_total", "Messages over redis that were ignored")
ROUNDS_ACTIVE = Gauge("aos_rounds_active", "Rounds that this process holds a lease of")
LOG_ENTRIES = Counter(
    "aos_log_entries_total", "Events that this process gave their place in the transparency log"
)
LOG_SIZE = Gauge(
    "aos_log_size", "Entries under the last head of the transparency log that this process signed"
)
LOG_HEALTHY = Gauge(
    "aos_log_healthy", "1 while the transparency log can be continued, 0 when its rows do not fit its head"
)
REGISTRY_BLOCK = Gauge("aos_registry_block", "Block of the chain that the registry is known at")
REGISTRY_AGE = Gauge("aos_registry_age_seconds", "Since the chain last confirmed the registry")
ANCHORS = Counter("aos_anchors_total", "Heads of the transparency log for the chain", ["outcome"])
ANCHORED_SIZE = Gauge(
    "aos_anchored_size", "Entries under the last head that this process anchored on the chain"
)
