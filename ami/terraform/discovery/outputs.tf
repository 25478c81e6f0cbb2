output "role_arn" {
  description = "For the hub's discovery_roles."
  value       = aws_iam_role.this.arn
}
