// A stream on a descriptor of a kind that Node does not know but the kernel's
// epoll(7) does: the end of a process (pidfd), packets (SOCK_SEQPACKET).
import { Socket } from 'node:net';
import { close, pipe, replaceDescriptor } from './syscalls.js';

/**
 * net.Socket takes pipes and stream sockets only, by what the descriptor is when
 * the socket is made; from then on it only polls, reads and writes the number.
 * So it is made on a pipe, whose number then gets the other meaning before the
 * event loop has looked at it.
 * @param fd goes over to the socket, which closes it
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
