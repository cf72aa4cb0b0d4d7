// The environment of the integration tests in try.sh: that of the tests, with the switch of the mutants.
import Watched from '../environment.mjs';
import { note } from './switch.mjs';

export default class IntegrationEnvironment extends Watched {
  async setup() {
    await super.setup();
    this.global.mutant = globalThis.mutant;
  }

  handleTestEvent(event) {
    super.handleTestEvent(event);
    const { name, test } = event;
    if (name !== 'test_done') return;
    note(`ms ${test.duration ?? 0}`);
    if (test.errors.length === 0) return;
    // The first failure says enough, and the end of the namespaces takes everything away.
    note(`failed ${test.name}`);
    process.exit(1);
  }
}
