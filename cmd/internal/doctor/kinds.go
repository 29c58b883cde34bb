package doctor

// A kind is what all findings with one id have in common.
type kind struct {
	level  level
	remedy string
}

// kinds has the kinds of findings by their id, which stays the same in later versions.
var kinds = map[string]kind{
	"settings":                {problem, "Correct the setting. glotpod-ident settings describes all of them."},
	"settings-warning":        {advice, "Write the setting as the message says."},
	"client-certificate":      {problem, "Renew the certificate. Its file is read for each new connection, so no restart is needed."},
	"client-certificate-soon": {advice, "Renew the certificate in time. Its file is read for each new connection, so no restart is needed."},
	"http-certificate":        {problem, "Renew the certificate of http.listen. Its file is read again when it changes, so no restart is needed."},
	"http-certificate-soon":   {advice, "Renew the certificate of http.listen in time. Its file is read again when it changes, so no restart is needed."},
	"http-plain":              {advice, "Set http.ssl_cert and http.ssl_key, or have http.listen take connections from a proxy with TLS alone, so that nobody on the network can read the token."},

	// Reaching the servers.
	"broker-name":               {problem, "Correct amqp.host, or the name server of this machine."},
	"broker-unreachable":        {problem, "Start RabbitMQ, or correct amqp.host and amqp.port. A firewall or a network policy may be in the way."},
	"broker-silent":             {problem, "Start the other nodes of RabbitMQ, or look into its logs: without a majority of its nodes it declares nothing."},
	"broker-tls":                {problem, "Correct amqp.ssl_ca, amqp.ssl_server_name or the certificate of RabbitMQ, so that the certificate is valid, signed by that CA, and for that name."},
	"broker-certificate":        {problem, "Renew the certificate of RabbitMQ."},
	"broker-certificate-soon":   {advice, "Renew the certificate of RabbitMQ in time."},
	"broker-plain":              {advice, "Set amqp.ssl to true, so that nobody on the network can read passwords and access tokens."},
	"broker-not-allowed":        {problem, "Create the virtual host amqp.vhost, give the user permissions in it, or raise max-connections of the virtual host or the user, as the message says."},
	"broker-login":              {problem, "Correct amqp.login, amqp.password or amqp.login_method, or create the user in RabbitMQ."},
	"database-name":             {problem, "Correct database.postgres.host, or the name server of this machine."},
	"database-unreachable":      {problem, "Start PostgreSQL, or correct database.postgres.host and database.postgres.port. A firewall or a network policy may be in the way."},
	"database-tls":              {problem, "Correct database.postgres.sslmode, database.postgres.sslrootcert or the certificate of PostgreSQL."},
	"database-certificate":      {problem, "Renew the certificate of PostgreSQL."},
	"database-certificate-soon": {advice, "Renew the certificate of PostgreSQL in time."},
	"database-unverified":       {advice, "Set database.postgres.sslmode to verify-full and database.postgres.sslrootcert, so that nobody on the network can read or change users."},
	"database-login":            {problem, "Correct database.postgres.user, .password and .database, or create the user and the database in PostgreSQL."},

	// RabbitMQ.
	"broker-version":         {problem, "Update RabbitMQ to a version that is tested: 3.10 to 4.3."},
	"broker-version-untried": {advice, "Use a version of RabbitMQ that is tested, 3.10 to 4.3, or test this one before."},
	"broker-plugin":          {advice, "Run rabbitmq-plugins enable rabbitmq_consistent_hash_exchange on each node. Without it, callers cannot use the direct way."},
	"broker-permission":      {problem, "Give the user the permissions configure, write and read on ^(glotpod|amq\\.).* in the virtual host."},
	"broker-queues":          {problem, "Raise max-queues of the virtual host (rabbitmqctl set_vhost_limits), or lower cluster.partitions before the first start."},
	"broker-channels":        {problem, "Raise channel_max of RabbitMQ, or lower cluster.partitions before the first start."},
	"broker-connections":     {problem, "Raise max-connections of the virtual host or of the user. Each instance needs three, a fourth for moments, and each command one."},
	"broker-frames":          {advice, "Raise frame_max of RabbitMQ to its default of 131072. Headers that are larger than a frame are dropped."},
	"broker-message-size":    {problem, "Raise max_message_size of RabbitMQ. Pages of list and changes have up to four megabytes."},
	"broker-notifications":   {advice, "Raise max_message_size of RabbitMQ or lower limits.body_bytes. A write with a larger notification fails with invocation_failed."},
	"broker-nodes-down":      {problem, "Start the nodes of RabbitMQ that do not run, or remove them from its cluster."},
	"broker-two-nodes":       {advice, "Add a third node: of two nodes none can be lost, because quorum queues need a majority."},
	"broker-alarm":           {problem, "Give the node more memory or disk. Until then RabbitMQ accepts no messages."},
	"broker-clock":           {advice, "Set the clock of the machine by NTP."},
	"shared-queue-missing":   {problem, "Start the node of the queue. If it was deleted, a running instance declares it again."},
	"shared-queue-stream":    {problem, "Delete the queue while no instance runs. Each instance would get each request of a stream."},
	"shared-queue-one-node":  {problem, "RabbitMQ 3.x: import deploy/rabbitmq/policies-3.x.json. RabbitMQ 4.x: make quorum the default type of queues in the virtual host, and run deploy/rabbitmq/replace-shared-queue.sh if the queue exists. Requests are lost otherwise while the node of the queue is away."},
	"partition-one-node":     {advice, "Quorum queues keep the partitions when a node is lost. glotpod-ident repartition --queue-type quorum changes the type while requests come."},
	"partition-quorum":       {advice, "As long as the broker has one node, classic queues cost it half the work. glotpod-ident repartition --queue-type classic changes the type while requests come."},
	"queue-policy":           {problem, "Remove the policy from the queues glotpod.rpc/ident…, or leave these keys out. Requests would be dropped."},
	"disconnected-timeout":   {advice, "Import deploy/rabbitmq/policies-4.3.json. Otherwise the requests of a node that is cut off come back only after a minute."},
	"requests-copied":        {advice, "Delete the binding unless it is wanted: the queue gets requests, with the access tokens in them."},
	"requests-readable":      {advice, "Take read permission on the queues glotpod.rpc/ident… and on amq.topic from these users, or restrict it by topic permissions, as deploy/guide/security.md says. Any of them can get requests, with the access tokens in them."},
	"notifications-writable": {advice, "Take write permission on amq.topic from these users, or restrict it by topic permissions, as deploy/guide/security.md says. Any of them can send notifications that look like the service's."},
	"cluster":                {problem, "Run glotpod-ident status, and see deploy/guide/runbook.md."},

	// PostgreSQL.
	"database-version":         {problem, "Update PostgreSQL to a version that is tested: 15 to 18."},
	"database-version-untried": {advice, "Use a version of PostgreSQL that is tested, 15 to 18, or test this one before."},
	"database-read-only":       {problem, "Connect to the primary: a standby accepts no writes. With several hosts in database.postgres.host, only one that accepts writes is used."},
	"schema":                   {problem, "Run glotpod-ident migrate."},
	"parameters":               {problem, "Set cluster.partitions and cluster.queue_type to what the cluster in this database has, or correct database.postgres.database."},
	"pooler":                   {problem, "Set pool_mode = session for this database and user in PgBouncer."},
	"database-permission":      {problem, "Give the user CREATE on the schema public of the database, or make it the owner of the database."},
	"database-history":         {advice, "Give the user EXECUTE on pg_control_system(), pg_walfile_name(pg_lsn) and pg_current_wal_flush_lsn(). A failover that loses commits goes unnoticed otherwise."},
	"database-owner":           {problem, "Make the user the owner of these tables (ALTER TABLE … OWNER TO …). migrate and the instances must use the same user."},
	"database-connections":     {problem, "Raise max_connections of PostgreSQL or the limit of the user or database, or lower database.postgres.max_connections."},
	"fsync":                    {problem, "Set fsync = on. A crash of the machine may destroy the database otherwise."},
	"full-page-writes":         {problem, "Set full_page_writes = on. A crash of the machine may destroy the database otherwise."},
	"synchronous-commit":       {problem, "Set synchronous_commit = on. A crash of the server loses writes that got a reply otherwise."},
	"standby-commit":           {problem, "Set synchronous_commit to on or remote_apply, so that a failover loses no write that got a reply."},
	"standby-asynchronous":     {advice, "Set synchronous_standby_names, if a failover must lose no write that got a reply."},
	"standby-away":             {problem, "Bring the synchronous standby back, or take it out of synchronous_standby_names. No write gets a reply until then."},
	"collation-version":        {problem, "Run REINDEX DATABASE, and then ALTER DATABASE … REFRESH COLLATION VERSION. Indexes that were sorted by another version may miss rows."},
	"database-encoding":        {advice, "Use a database with the encoding UTF8, so that names are found however Unicode writes them."},
	"database-ctype":           {advice, "Use a database with another LC_CTYPE, such as C.UTF-8, so that names are found regardless of case in all alphabets."},
	"foreign-triggers":         {problem, "Run ALTER TABLE … ENABLE ALWAYS TRIGGER ident_foreign, ENABLE REPLICA TRIGGER ident_foreign_row for users and services. Writes of other programs go unnoticed otherwise, and instances reply with outdated users."},
	"clock":                    {problem, "Set the clocks of the machines by NTP. They must agree within a minute."},
	"clock-drift":              {advice, "Set the clocks of the machines by NTP."},
	"keys":                     {problem, "Add the key that is missing to database.encryption_key. The users of these tokens cannot be read."},
	"keys-stale":               {advice, "Run glotpod-ident rekey before you remove a key."},
}
