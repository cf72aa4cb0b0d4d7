// The order in which jest hands the files to its workers: the longest first, so that none of them
// runs alone at the end. jest itself knows how long a file takes only where it has run before.
import Sequencer from '@jest/test-sequencer';

const longest = [
  /conformance\/critest/,
  /pct\/failpoints/,
  /integration\/failpoints/,
  /integration\/bad-input/,
];

export default class LongestFirst extends Sequencer {
  sort(tests) {
    const place = ({ path }) => {
      const index = longest.findIndex((name) => name.test(path));
      return index === -1 ? longest.length : index;
    };
    return super.sort(tests).sort((a, b) => place(a) - place(b));
  }
}
