// What a client of the streaming server can make us hold, and for how long. A
// client is whoever has got a URL: it may send anything, read nothing, and vanish.

// The server.

/** URLs that wait to be opened; each holds the request of its call. */
export const maxTickets = 1_000;
/** Of them, for one pod: a client that asks for URLs and opens none leaves the others enough. */
export const maxTicketsPerPod = 100;
/** The client opens the URL at once; a minute covers a slow way through API server and kubelet. */
export const ticketLifeMs = 60_000;
/** Open sessions; each has descriptors, buffers, and mostly a process. */
export const maxSessions = 1_000;
/** Of them, for one pod. */
export const maxSessionsPerPod = 200;
/** Connections, also those that have not asked for anything yet. What is more is closed at once. */
export const maxConnections = 2_000;

// HTTP, before there is a session.

/** Request line and headers; those of Kubernetes' clients have less than 2 KiB. */
export const maxRequestHeaderBytes = 16 << 10;
/** For the TLS handshake, and for the whole request: both are sent at once. */
export const requestTimeoutMs = 10_000;
/** How often the server looks for requests that take too long. */
export const requestCheckMs = 1_000;
/** What the client of a refused request may take to read the answer. */
export const refusalLingerMs = 2_000;

// Every session.

/** A host that has gone without a word is noticed on an idle connection too. */
export const keepAliveMs = 30_000;
/** Without a byte in either direction; that of the kubelet and of containerd. */
export const idleTimeoutMs = 4 * 3_600_000;
/**
 * What the peer may send ahead of the reader of one stream. All streams of a
 * connection share one socket, so a stream that is not read holds up the others
 * when this is full.
 */
export const readAheadBytes = 1 << 20;
/** The same for all streams of a connection together. */
export const maxReadAheadBytes = 16 << 20;
/** What a writer may hand over before the socket has taken what came before: the next block is read while one is sent. */
export const writeAheadBytes = 256 << 10;
/** Our answers to frames of the client that it has not taken; beyond it no further frame is read. */
export const maxUnsentReplyBytes = 64 << 10;
/** After the end of the program, or while answers wait: a client that takes nothing for so long is hung up on. */
export const takePatienceMs = 30_000;

// SPDY.

/** Open streams of a connection: an exec has five, a port-forward two for each connection that it carries. */
export const maxStreams = 512;
/** The length field could say 16 MiB; a control frame of a Kubernetes client has a few hundred bytes. */
export const maxControlBytes = 16 << 10;
/** The headers of one stream after they are inflated, kept for as long as it is open; likewise. */
export const maxHeaderBytes = 16 << 10;

// WebSocket.

/** A message is held in memory as a whole, and some clients send all their input in one. */
export const maxMessageBytes = 16 << 20;
/** Pieces of a message; clients send it whole. */
export const maxFragments = 1_024;
