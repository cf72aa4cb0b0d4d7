// Links between the documents, with their anchors: `npm run lint:docs`.
import remarkValidateLinks from 'remark-validate-links';

const config = { plugins: [[remarkValidateLinks, { repository: false }]] };
export { config as default };
