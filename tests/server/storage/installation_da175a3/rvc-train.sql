-- An installation as the code of commit da175a3 left it, the last before folder and database had an instance id:
-- this dump of its rvc-train.db, and its files in files/ (without the workspace, which a retention policy may delete).
-- Made by `python -m server` and `python -m worker` of a checkout of that commit, with tests/server/fake_report.py as
-- RVC_TRAIN_REPORT_COMMAND and tests/worker/scripted_engine.py as RVC_TRAIN_ENGINE_COMMAND ([["artifact", "voice", 300],
-- ["artifact", "index", 200], ["succeed"]]), over HTTP: two datasets, one of them deleted; a job that succeeded and one
-- that waits; half of an upload in pieces. The dump is Python's sqlite3.Connection.iterdump().
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0009');
CREATE TABLE artifacts (
	id VARCHAR NOT NULL, 
	job_number INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	path VARCHAR NOT NULL, 
	size BIGINT NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (id), 
	CONSTRAINT fk_artifacts_job_number FOREIGN KEY(job_number) REFERENCES jobs (number) ON DELETE CASCADE, 
	CONSTRAINT uq_artifacts_job_number_name UNIQUE (job_number, name)
);
INSERT INTO "artifacts" VALUES('art_01a2259ed4467267b245643d4996784a',1,'voice','anna.pth','jobs/job_01a2259ec57b78cbadd60d52785c420b/artifacts/f24ff84db62b8ce276f45651e3c5985a8bd4b812fa235ee461dccaf0db4b3433',288,'f24ff84db62b8ce276f45651e3c5985a8bd4b812fa235ee461dccaf0db4b3433','2026-11-29 04:44:55.750275');
INSERT INTO "artifacts" VALUES('art_01a2259ed45a78c7a543a86672e554b9',1,'index','anna.index','jobs/job_01a2259ec57b78cbadd60d52785c420b/artifacts/6a5fba65f04d8557651f44cfcb5b563d7040100c54d8015dfa669fce68a14411',192,'6a5fba65f04d8557651f44cfcb5b563d7040100c54d8015dfa669fce68a14411','2026-11-29 04:44:55.770598');
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	job_number INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	token INTEGER NOT NULL, 
	worker_id VARCHAR NOT NULL, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	outcome VARCHAR, 
	message VARCHAR, 
	engine_pid INTEGER, 
	engine_started_at FLOAT, device VARCHAR, device_name VARCHAR, step_seconds FLOAT, stage_seconds JSON, stale_writes INTEGER DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_attempts PRIMARY KEY (id), 
	CONSTRAINT fk_attempts_job_number FOREIGN KEY(job_number) REFERENCES jobs (number) ON DELETE CASCADE, 
	CONSTRAINT fk_attempts_worker_id FOREIGN KEY(worker_id) REFERENCES workers (id), 
	CONSTRAINT uq_attempts_job_number_token UNIQUE (job_number, token)
);
INSERT INTO "attempts" VALUES(1,1,1,1,'wrk_01a2259ecfa87ed1b7152f20b9f651d9','2026-11-29 04:44:54.763025','2026-11-29 04:44:55.808666','succeeded','done',22596,1795927494.36,'cpu','AMD EPYC (2 cores)',NULL,NULL,0);
CREATE TABLE audit (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	created_at DATETIME NOT NULL, 
	actor VARCHAR NOT NULL, 
	token_id VARCHAR, 
	address VARCHAR NOT NULL, 
	request_id VARCHAR NOT NULL, 
	action VARCHAR NOT NULL, 
	target VARCHAR NOT NULL, 
	detail JSON NOT NULL
);
INSERT INTO "audit" VALUES(1,'2026-11-29 04:44:51.202778','local',NULL,'127.0.0.1','01a2259ec24c7726a480342caf72cc08','dataset.admitted','ds_01a2259ec26776eda264ea7e29eb82af','{"name": "anna", "size": 9}');
INSERT INTO "audit" VALUES(2,'2026-11-29 04:44:51.310044','local',NULL,'127.0.0.1','01a2259ec2bd752d942e1156648abd1f','dataset.admitted','ds_01a2259ec2d47547bf882681b44843bb','{"name": "gone", "size": 9}');
INSERT INTO "audit" VALUES(3,'2026-11-29 04:44:51.939874','local',NULL,'127.0.0.1','01a2259ec55d76e5a7e8b60a51905e7b','dataset.deleted','ds_01a2259ec2d47547bf882681b44843bb','{"name": "gone"}');
INSERT INTO "audit" VALUES(4,'2026-11-29 04:44:51.991459','local',NULL,'127.0.0.1','01a2259ec57676d68e724ed486ede2e6','job.submitted','job_01a2259ec57b78cbadd60d52785c420b','{"name": "anna", "dataset_id": "ds_01a2259ec26776eda264ea7e29eb82af"}');
INSERT INTO "audit" VALUES(5,'2026-11-29 04:44:56.631703','local',NULL,'127.0.0.1','01a2259ed7a67702b7959a1d833dd584','job.submitted','job_01a2259ed7ab731a8acb6ff376843f11','{"name": "waiting", "dataset_id": "ds_01a2259ec26776eda264ea7e29eb82af"}');
CREATE TABLE datasets (
	id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	reason VARCHAR, 
	sha256 VARCHAR NOT NULL, 
	size BIGINT NOT NULL, 
	num_files INTEGER NOT NULL, 
	num_usable INTEGER, 
	seconds FLOAT, 
	notes JSON NOT NULL, 
	report JSON, 
	created_at DATETIME NOT NULL, 
	validated_at DATETIME, 
	deleted_at DATETIME, owner VARCHAR DEFAULT 'local' NOT NULL, stored_bytes BIGINT, 
	CONSTRAINT pk_datasets PRIMARY KEY (id), 
	CONSTRAINT ck_datasets_invalid_has_reason CHECK (status <> 'invalid' OR reason IS NOT NULL), 
	CONSTRAINT ck_datasets_status_known CHECK (status IN ('invalid', 'ready', 'validating'))
);
INSERT INTO "datasets" VALUES('ds_01a2259ec26776eda264ea7e29eb82af','anna','ready',NULL,'5f9cd1ac643c683071624202b1711855e975e98a3f99338dccb2438b972da787',9,1,1,60.0,'[]','{"usable": true, "reason": null, "seconds": 60.0, "speech_seconds": null, "silence_share": null, "num_files": 1, "num_usable": 1, "files": [{"name": "anna", "seconds": 60.0, "sample_rate": null, "channels": null, "container": null, "codec": null, "peak": null, "clipped_share": null, "speech_seconds": null, "speech_db": null, "noise_db": null, "snr_db": null, "bandwidth_hz": null, "notes": [], "error": null}], "warnings": [], "findings": [], "sample_rates": {}, "clipped_share": null, "speech_db": null, "noise_db": null, "snr_db": null, "reverberation_seconds": null, "bandwidth_hz": null, "overview": {"peaks": [], "starts": []}}','2026-11-29 04:44:51.200215','2026-11-29 04:44:51.577472',NULL,'local',60);
INSERT INTO "datasets" VALUES('ds_01a2259ec2d47547bf882681b44843bb','gone','ready',NULL,'25e8fc2d1777edb3cb7b503949333326664237594b2a19da1482df76cfc88d2c',9,1,1,60.0,'[]',NULL,'2026-11-29 04:44:51.308167','2026-11-29 04:44:51.817295','2026-11-29 04:44:51.940386','local',60);
CREATE TABLE deliveries (
	id VARCHAR NOT NULL, 
	webhook_id VARCHAR NOT NULL, 
	job_id VARCHAR, 
	event VARCHAR NOT NULL, 
	body VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	num_tries INTEGER NOT NULL, 
	next_try_at DATETIME NOT NULL, 
	last_status INTEGER, 
	last_error VARCHAR, 
	last_tried_at DATETIME, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_deliveries PRIMARY KEY (id), 
	CONSTRAINT ck_deliveries_status_known CHECK (status IN ('delivered', 'failed', 'pending')), 
	CONSTRAINT fk_deliveries_webhook_id FOREIGN KEY(webhook_id) REFERENCES webhooks (id) ON DELETE CASCADE
);
CREATE TABLE evaluations (
	job_number INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	"values" JSON NOT NULL, 
	held_out BOOLEAN NOT NULL, 
	num_clips INTEGER NOT NULL, 
	is_best BOOLEAN NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_evaluations PRIMARY KEY (job_number, step), 
	CONSTRAINT fk_evaluations_job_number FOREIGN KEY(job_number) REFERENCES jobs (number) ON DELETE CASCADE
)
 WITHOUT ROWID

;
CREATE TABLE events (
	job_number INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	type VARCHAR NOT NULL, 
	level VARCHAR NOT NULL, 
	message VARCHAR NOT NULL, 
	data JSON NOT NULL, 
	attempt INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (job_number, seq), 
	CONSTRAINT fk_events_job_number FOREIGN KEY(job_number) REFERENCES jobs (number) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "events" VALUES(1,1,'created','info','job for the voice ''anna'' created','{}',0,'2026-11-29 04:44:51.989681');
INSERT INTO "events" VALUES(1,2,'validated','info','the dataset is usable','{}',0,'2026-11-29 04:44:51.998772');
INSERT INTO "events" VALUES(1,3,'queued','info','waiting for a worker','{}',0,'2026-11-29 04:44:52.004579');
INSERT INTO "events" VALUES(1,4,'started','info','attempt 1 started','{"worker_id": "wrk_01a2259ecfa87ed1b7152f20b9f651d9", "device": "cpu"}',1,'2026-11-29 04:44:54.739768');
INSERT INTO "events" VALUES(1,5,'artifact_published','info','anna.pth is ready','{"kind": "voice", "name": "anna.pth", "size": 288, "sha256": "f24ff84db62b8ce276f45651e3c5985a8bd4b812fa235ee461dccaf0db4b3433"}',1,'2026-11-29 04:44:55.754251');
INSERT INTO "events" VALUES(1,6,'artifact_published','info','anna.index is ready','{"kind": "index", "name": "anna.index", "size": 192, "sha256": "6a5fba65f04d8557651f44cfcb5b563d7040100c54d8015dfa669fce68a14411"}',1,'2026-11-29 04:44:55.776496');
INSERT INTO "events" VALUES(1,7,'succeeded','info','done','{}',1,'2026-11-29 04:44:55.799936');
INSERT INTO "events" VALUES(2,1,'created','info','job for the voice ''waiting'' created','{}',0,'2026-11-29 04:44:56.631375');
INSERT INTO "events" VALUES(2,2,'validated','info','the dataset is usable','{}',0,'2026-11-29 04:44:56.633432');
INSERT INTO "events" VALUES(2,3,'queued','info','waiting for a worker','{}',0,'2026-11-29 04:44:56.634214');
CREATE TABLE idempotency_keys (
	owner VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	job_id VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, answer VARCHAR, 
	CONSTRAINT pk_idempotency_keys PRIMARY KEY (owner, "key")
);
CREATE TABLE job_sizes (
	job_number INTEGER NOT NULL, 
	bytes BIGINT NOT NULL, 
	measured_at DATETIME NOT NULL, 
	CONSTRAINT pk_job_sizes PRIMARY KEY (job_number), 
	CONSTRAINT fk_job_sizes_job_number FOREIGN KEY(job_number) REFERENCES jobs (number) ON DELETE CASCADE
);
CREATE TABLE jobs (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	dataset_id VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	config JSON NOT NULL, 
	priority INTEGER NOT NULL, 
	labels JSON NOT NULL, 
	max_attempts INTEGER NOT NULL, 
	max_duration_seconds FLOAT, 
	token INTEGER NOT NULL, 
	worker_id VARCHAR, 
	heartbeat INTEGER NOT NULL, 
	not_before DATETIME NOT NULL, 
	claims INTEGER NOT NULL, 
	failures INTEGER NOT NULL, 
	recoveries INTEGER NOT NULL, 
	stage VARCHAR, 
	progress FLOAT NOT NULL, 
	eta_seconds FLOAT, 
	epoch INTEGER, 
	total_epochs INTEGER, 
	step INTEGER, 
	total_steps INTEGER, 
	step_seconds FLOAT, 
	losses JSON NOT NULL, 
	num_warnings INTEGER NOT NULL, 
	last_seq INTEGER NOT NULL, 
	error_code VARCHAR, 
	error_message VARCHAR, 
	created_at DATETIME NOT NULL, 
	queued_at DATETIME, 
	started_at DATETIME, 
	finished_at DATETIME, owner VARCHAR DEFAULT 'local' NOT NULL, retry_of VARCHAR, retry_from VARCHAR, 
	CONSTRAINT ck_jobs_failed_exactly_when_it_has_a_code CHECK ((status = 'failed') = (error_code IS NOT NULL)), 
	CONSTRAINT ck_jobs_finished_exactly_when_terminal CHECK ((status IN ('cancelled', 'failed', 'succeeded')) = (finished_at IS NOT NULL)), 
	CONSTRAINT ck_jobs_held_exactly_when_it_has_a_worker CHECK ((status IN ('cancelling', 'pausing', 'running')) = (worker_id IS NOT NULL)), 
	CONSTRAINT ck_jobs_held_has_token CHECK (NOT (status IN ('cancelling', 'pausing', 'running')) OR token > 0), 
	CONSTRAINT ck_jobs_status_known CHECK (status IN ('cancelled', 'cancelling', 'failed', 'paused', 'pausing', 'queued', 'running', 'succeeded', 'validating')), 
	CONSTRAINT ck_jobs_max_attempts_positive CHECK (max_attempts >= 1), 
	CONSTRAINT ck_jobs_progress_is_a_fraction CHECK (progress >= 0 AND progress <= 1), 
	CONSTRAINT ck_jobs_counters_positive CHECK (token >= 0 AND claims >= 0 AND failures >= 0 AND recoveries >= 0), 
	CONSTRAINT fk_jobs_dataset_id FOREIGN KEY(dataset_id) REFERENCES datasets (id), 
	CONSTRAINT fk_jobs_worker_id FOREIGN KEY(worker_id) REFERENCES workers (id), 
	CONSTRAINT uq_jobs_id UNIQUE (id)
);
INSERT INTO "jobs" VALUES(1,'job_01a2259ec57b78cbadd60d52785c420b','anna','ds_01a2259ec26776eda264ea7e29eb82af','succeeded','{"version": "v2", "sample_rate": "40k", "f0": true, "pitch": "swift", "content": "contentvec", "pretrained": "none", "batch_size": 4, "accumulate_steps": 1, "total_epochs": 300, "max_train_seconds": null, "save_every_epochs": 50, "save_only_latest": false, "save_every_weights": false, "keep_saves": "all", "num_best_saves": 3, "evaluate": "auto", "evaluate_every_epochs": null, "precision": "auto", "tf32": true, "gradient_checkpointing": false, "cache_data_on_device": false, "checkpoint_every_steps": null, "learning_rate": 0.0001, "lr_decay": 0.999875, "seed": 1234, "speaker_id": 0, "speakers": "one", "width": 24}',0,'{}',2,NULL,1,NULL,2,'2026-11-29 04:44:51.963745',1,0,0,NULL,1.0,0.0,NULL,NULL,NULL,NULL,NULL,'{}',0,7,NULL,NULL,'2026-11-29 04:44:51.963745','2026-11-29 04:44:52.005137','2026-11-29 04:44:54.660708','2026-11-29 04:44:55.808666','local',NULL,NULL);
INSERT INTO "jobs" VALUES(2,'job_01a2259ed7ab731a8acb6ff376843f11','waiting','ds_01a2259ec26776eda264ea7e29eb82af','queued','{"version": "v2", "sample_rate": "40k", "f0": true, "pitch": "swift", "content": "contentvec", "pretrained": "none", "batch_size": 4, "accumulate_steps": 1, "total_epochs": 300, "max_train_seconds": null, "save_every_epochs": 50, "save_only_latest": false, "save_every_weights": false, "keep_saves": "all", "num_best_saves": 3, "evaluate": "auto", "evaluate_every_epochs": null, "precision": "auto", "tf32": true, "gradient_checkpointing": false, "cache_data_on_device": false, "checkpoint_every_steps": null, "learning_rate": 0.0001, "lr_decay": 0.999875, "seed": 1234, "speaker_id": 0, "speakers": "one", "width": 24}',0,'{}',2,NULL,0,NULL,0,'2026-11-29 04:44:56.619783',0,0,0,NULL,0.0,NULL,NULL,NULL,NULL,NULL,NULL,'{}',0,3,NULL,NULL,'2026-11-29 04:44:56.619783','2026-11-29 04:44:56.634364',NULL,NULL,'local',NULL,NULL);
CREATE TABLE metrics (
	job_number INTEGER NOT NULL, 
	"key" VARCHAR NOT NULL, 
	step INTEGER NOT NULL, 
	value FLOAT, 
	CONSTRAINT pk_metrics PRIMARY KEY (job_number, "key", step), 
	CONSTRAINT fk_metrics_job_number FOREIGN KEY(job_number) REFERENCES jobs (number) ON DELETE CASCADE
)
 WITHOUT ROWID

;
CREATE TABLE policies (
	name VARCHAR NOT NULL, 
	value JSON NOT NULL, 
	changed_at DATETIME NOT NULL, 
	CONSTRAINT pk_policies PRIMARY KEY (name)
);
CREATE TABLE previews (
	job_number INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	clip INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	seconds FLOAT NOT NULL, 
	scores JSON NOT NULL, 
	audio_path VARCHAR NOT NULL, 
	audio_size BIGINT NOT NULL, 
	audio_sha256 VARCHAR NOT NULL, 
	picture_path VARCHAR NOT NULL, 
	picture_size BIGINT NOT NULL, 
	picture_sha256 VARCHAR NOT NULL, 
	recording_path VARCHAR NOT NULL, 
	recording_size BIGINT NOT NULL, 
	recording_sha256 VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_previews PRIMARY KEY (job_number, step, clip), 
	CONSTRAINT fk_previews_job_number FOREIGN KEY(job_number) REFERENCES jobs (number) ON DELETE CASCADE
)
 WITHOUT ROWID

;
CREATE TABLE quotas (
	owner VARCHAR NOT NULL, 
	max_jobs INTEGER, 
	max_bytes BIGINT, 
	max_gpu_hours FLOAT, 
	CONSTRAINT pk_quotas PRIMARY KEY (owner)
);
CREATE TABLE sessions (
	sha256 VARCHAR NOT NULL, 
	token_id VARCHAR, 
	first_token_hash VARCHAR, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_sessions PRIMARY KEY (sha256), 
	CONSTRAINT fk_sessions_token_id FOREIGN KEY(token_id) REFERENCES tokens (id) ON DELETE CASCADE
);
CREATE TABLE spent_hours (
	owner VARCHAR NOT NULL, 
	month VARCHAR NOT NULL, 
	hours FLOAT NOT NULL, 
	CONSTRAINT pk_spent_hours PRIMARY KEY (owner, month)
);
CREATE TABLE tokens (
	id VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	begins VARCHAR NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	scopes JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	last_used_at DATETIME, 
	revoked_at DATETIME, 
	CONSTRAINT pk_tokens PRIMARY KEY (id), 
	CONSTRAINT uq_tokens_sha256 UNIQUE (sha256)
);
CREATE TABLE uploads (
	id VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	length BIGINT NOT NULL, 
	tus_metadata VARCHAR NOT NULL, 
	unverified_from BIGINT, 
	dataset_id VARCHAR, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_uploads PRIMARY KEY (id), 
	CONSTRAINT ck_uploads_length_positive CHECK (length > 0)
);
INSERT INTO "uploads" VALUES('upl_01a2259ed7e2738198dccd5b5262cd73','local',20,'',NULL,NULL,'2026-11-29 04:44:56.674422','2026-11-30 04:44:56.704411');
CREATE TABLE webhooks (
	id VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	job_id VARCHAR, 
	url VARCHAR NOT NULL, 
	secret VARCHAR NOT NULL, 
	events JSON NOT NULL, 
	is_enabled BOOLEAN NOT NULL, 
	disabled_reason VARCHAR, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_webhooks PRIMARY KEY (id), 
	CONSTRAINT fk_webhooks_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
CREATE TABLE workers (
	id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	pid INTEGER NOT NULL, 
	host VARCHAR NOT NULL, 
	device VARCHAR NOT NULL, 
	is_draining BOOLEAN NOT NULL, 
	registered_at DATETIME NOT NULL, 
	last_seen_at DATETIME NOT NULL, 
	stopped_at DATETIME, device_name VARCHAR, version VARCHAR, drain_mode VARCHAR, 
	CONSTRAINT pk_workers PRIMARY KEY (id)
);
INSERT INTO "workers" VALUES('wrk_01a2259ecfa87ed1b7152f20b9f651d9','worker',22590,'host','cpu',0,'2026-11-29 04:44:54.568599','2026-11-29 04:44:55.931952','2026-11-29 04:44:55.931952','AMD EPYC (2 cores)','0.1.0',NULL);
CREATE INDEX ix_jobs_dataset_id ON jobs (dataset_id);
CREATE INDEX ix_jobs_queue ON jobs (status, priority, number);
CREATE INDEX ix_uploads_expires_at ON uploads (expires_at);
CREATE INDEX ix_datasets_owner ON datasets (owner);
CREATE INDEX ix_jobs_owner ON jobs (owner);
CREATE UNIQUE INDEX uq_datasets_owner_name_sha256 ON datasets (owner, name, sha256) WHERE deleted_at IS NULL;
CREATE INDEX ix_webhooks_owner ON webhooks (owner);
CREATE INDEX ix_webhooks_job_id ON webhooks (job_id);
CREATE INDEX ix_deliveries_webhook_id ON deliveries (webhook_id);
CREATE INDEX ix_deliveries_due ON deliveries (status, next_try_at);
CREATE INDEX ix_tokens_owner ON tokens (owner);
CREATE INDEX ix_audit_created_at ON audit (created_at);
CREATE TRIGGER finished_jobs_are_frozen BEFORE UPDATE OF number, id, owner, name, dataset_id, status, config, priority, max_attempts, max_duration_seconds, retry_of, retry_from, token, worker_id, heartbeat, not_before, claims, failures, recoveries, stage, progress, eta_seconds, epoch, total_epochs, step, total_steps, step_seconds, losses, num_warnings, last_seq, error_code, error_message, created_at, queued_at, started_at, finished_at ON jobs WHEN OLD.status IN ('succeeded', 'failed', 'cancelled') BEGIN SELECT RAISE(ABORT, 'a finished job does not change'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('audit',5);
INSERT INTO "sqlite_sequence" VALUES('jobs',2);
COMMIT;
