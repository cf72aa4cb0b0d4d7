// Limits on the resources and the time that a client of the streaming server can
// use. A client needs only a URL: it may send anything, read nothing, and
// disappear.

// The server.

/** URLs that are not opened yet; each keeps the request of its call. */
export const maxTickets = 1_000;
/** Of these, for one pod: so a client that requests URLs without opening them leaves enough for others. */
export const maxTicketsPerPod = 100;
/** The client opens the URL at once; a minute is enough for a slow path through API server and kubelet. */
export const ticketLifeMs = 60_000;
/** Open sessions; each has descriptors, buffers, and usually a process. */
export const maxSessions = 1_000;
/** Of these, for one pod. */
export const maxSessionsPerPod = 200;
/** Connections, including those without a request yet. Further ones are closed at once. */
export const maxConnections = 2_000;

// HTTP, before the session.

/** Request line and headers; Kubernetes' clients send less than 2 KiB. */
export const maxRequestHeaderBytes = 16 << 10;
/** For the TLS handshake, and for the whole request: clients send both without delay. */
export const requestTimeoutMs = 10_000;
/** How often the server checks for requests that take too long. */
export const requestCheckMs = 1_000;
/** How long the client of a refused request may take to read the answer. */
export const refusalLingerMs = 2_000;

// Every session.

/** Detects an unreachable host on an idle connection, too. */
export const keepAliveMs = 30_000;
/** Without a byte in either direction; the same as in the kubelet and in containerd. */
export const idleTimeoutMs = 4 * 3_600_000;
/**
 * Bytes that the peer may send ahead of the reader of one stream. All streams
 * of a connection share one socket, so a stream that is not read blocks the
 * others when this is full.
 */
export const readAheadBytes = 1 << 20;
/** The same for all streams of a connection together. */
export const maxReadAheadBytes = 16 << 20;
/**
 * Bytes that a writer may pass on before the socket has accepted the previous ones: the next block is read
 * while one is sent.
 */
export const writeAheadBytes = 256 << 10;
/** Answers to frames that the client has not read; beyond this no further frame is read. */
export const maxUnsentReplyBytes = 64 << 10;
/**
 * After the end of the program, or while answers are pending: a client that reads nothing for this time is
 * disconnected.
 */
export const takePatienceMs = 30_000;

// SPDY.

/** Open streams of a connection: an exec has five, a port-forward two for each connection that it carries. */
export const maxStreams = 512;
/** The length field allows 16 MiB; a control frame of a Kubernetes client has a few hundred bytes. */
export const maxControlBytes = 16 << 10;
/** The decompressed headers of one stream, kept as long as it is open; likewise. */
export const maxHeaderBytes = 16 << 10;

// WebSocket.

/** A message is kept in memory as a whole, and some clients send all their input in one. */
export const maxMessageBytes = 16 << 20;
/** Fragments of a message; clients do not fragment messages. */
export const maxFragments = 1_024;
