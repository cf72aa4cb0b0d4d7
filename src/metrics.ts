// The daemon's own metrics.
export const metrics = {
  calls: { observe(_labels: Record<string, string | undefined>, _seconds: number): void { /* counted later */ } },
};
