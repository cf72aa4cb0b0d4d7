// A stream on a descriptor of a kind that epoll(7) supports but Node does
// not: the end of a process (pidfd), packets (SOCK_SEQPACKET).
import { Socket } from 'node:net';
import { close, pipe, replaceDescriptor } from './syscalls.js';

/**
 * net.Socket accepts only pipes and stream sockets, but checks this only when
 * the socket is made; afterwards it only polls, reads and writes the descriptor.
 * So it is made on a pipe, and the descriptor is replaced before the event loop
 * polls it.
 * @param fd is owned by the socket, which closes it
 */
export function socketOn(fd: number): Socket {
  let made;
  try {
    made = pipe();
  } catch (error) {
    close(fd);
    throw error;
  }
  const socket = new Socket({ fd: made.read, readable: true, writable: false });
  try {
    replaceDescriptor(fd, made.read);
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    close(made.write);
    close(fd);
  }
  return socket;
}
