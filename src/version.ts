// crisp's own version, from package.json.
import { packageFile } from './installed.js';

export const version: string = packageFile().version;
